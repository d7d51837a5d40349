// Where one writes: the question, its price while it is written, how long the answer may be.
import { $, el } from './dom.js';
import { amount, credits, has, number, t, why } from './words.js';

const TYPING_MS = 300;
const LIMITS = [256, 1024, 4096, 16384];

export class Composer {
	#timer = 0;
	#asked = null; // the preview under way
	#busy = false;
	#hintTimer = 0;

	// onsend(text), onstop(), preview(text, limit, signal), onfault(error) → was it dealt with?
	constructor(on) {
		this.on = on;
		this.area = $('question');
		this.area.addEventListener('input', () => {
			this.#fit();
			this.refresh(TYPING_MS);
		});
		this.area.addEventListener('keydown', (e) => this.#key(e));
		$('composer').addEventListener('submit', (e) => {
			e.preventDefault();
			this.#send();
		});
		$('stop').addEventListener('click', () => on.onstop());
		$('limit').addEventListener('change', () => this.refresh());
		this.busy(false);
	}

	get text() {
		return this.area.value;
	}

	set text(value) {
		this.area.value = value;
		this.#fit();
		this.refresh();
	}

	// Most tokens of an answer; 0: what the model can.
	get limit() {
		return Number($('limit').value);
	}

	// field-sizing does it where it is known.
	#fit() {
		if (CSS.supports('field-sizing', 'content'))
			return;
		this.area.style.height = 'auto';
		this.area.style.height = `${this.area.scrollHeight}px`;
	}

	#key(e) {
		// On a touch keyboard Enter is the only way to a new line, and the button is near.
		const touch = matchMedia('(hover: none) and (pointer: coarse)').matches;
		if (e.key === 'Enter' && !e.shiftKey && !e.isComposing && e.keyCode !== 229 && !touch) {
			e.preventDefault();
			this.#send();
		}
	}

	#send() {
		if (this.#busy || this.text.trim() === '')
			return;
		this.on.onsend(this.text.trimEnd());
	}

	focus() {
		// Not on a phone: its keyboard would cover what one came to read.
		if (!matchMedia('(hover: none) and (pointer: coarse)').matches)
			this.area.focus();
	}

	busy(busy) {
		this.#busy = busy;
		const had = document.activeElement;
		$('stop').hidden = !busy;
		$('send').hidden = busy;
		// A button that is not there any more has lost the focus.
		if (busy && had === $('send'))
			$('stop').focus();
		else if (!busy && had === $('stop'))
			this.area.focus();
	}

	// Not `disabled`: it has the focus, and would lose it.
	stopping(stopping) {
		$('stop').setAttribute('aria-disabled', String(stopping));
	}

	limits(most) {
		const before = this.limit;
		const options = [0, ...LIMITS.filter((n) => n < most)];
		$('limit').replaceChildren(...options.map((n) => el('option', { value: n },
			n === 0 ? t('limit.all') : t('limit.tokens', { n: number(n), count: n }))));
		$('limit').value = options.includes(before) ? before : 0;
	}

	// Ask for the price anew, after so long without a further call.
	refresh(ms = 0) {
		clearTimeout(this.#timer);
		this.#timer = setTimeout(() => this.#price(), ms);
	}

	async #price() {
		this.#asked?.abort();
		if (this.text.trim() === '') {
			this.#show('');
			return;
		}
		const asked = new AbortController();
		this.#asked = asked;
		try {
			const p = await this.on.preview(this.text, this.limit, asked.signal);
			if (asked.signal.aborted)
				return;
			if (p.allowed) {
				this.#show(t('price.about', { cost: amount(p.estimated_cost), max: credits(p.max_cost) }));
				this.unhint('short');
			} else {
				this.#show(t('price.short'), true);
				this.#short(p);
			}
		} catch (e) {
			if (asked.signal.aborted || this.on.onfault(e))
				return;
			if (e.code === 'rate_limit_exceeded') {
				this.#show('');
				this.refused(e);
				this.refresh(1000 * Math.max(1, e.retryAfter ?? 1));
				return;
			}
			this.#show(e.status === 0 ? t('price.unknown') : why(e), e.status !== 0);
		}
	}

	#show(text, bad = false) {
		$('price').textContent = text;
		$('price').classList.toggle('bad', bad);
	}

	// A sentence above the question.  The kind says which later event takes it away.
	hint(text, kind, seconds = 0) {
		clearTimeout(this.#hintTimer);
		$('hint').textContent = text;
		$('hint').dataset.kind = kind;
		$('hint').hidden = false;
		if (seconds > 0)
			this.#hintTimer = setTimeout(() => this.unhint(kind), seconds * 1000);
	}

	unhint(kind) {
		if (kind === undefined || $('hint').dataset.kind === kind)
			$('hint').hidden = true;
	}

	// Not as much is known as when it was refused: what was said then stays.
	#short({ available, short_of: of }) {
		if (!$('hint').hidden && $('hint').dataset.kind === 'short')
			return;
		if (of !== undefined && of !== 'credit' && has(`hint.${of}`))
			this.hint(t(`hint.${of}`), 'short');
		else
			this.hint(t(available > 0 ? 'hint.less' : 'hint.empty'), 'short');
	}

	// Why a question was not taken, and what one can do.
	refused(error) {
		switch (error.code) {
		case 'insufficient_credit':
			if (error.required === undefined || error.available <= 0)
				this.hint(t('hint.empty'), 'short');
			else
				this.hint(t('hint.short', {
					required: credits(error.required), available: credits(error.available, true),
				}), 'short');
			break;
		case 'key_cap_reached':
			this.hint(t('hint.key_cap'), 'short');
			break;
		case 'budget_exceeded':
			this.hint(t(error.detail.budget_month ? 'hint.budget_month' : 'hint.budget_day'), 'short');
			break;
		case 'rate_limit_exceeded': {
			const n = Math.max(1, error.retryAfter ?? 1);
			this.hint(t('hint.limit', { n: number(n), count: n }), 'limit', n);
			break;
		}
		default:
			this.hint(t('fault.send', { why: why(error) }), 'send');
		}
	}
}

