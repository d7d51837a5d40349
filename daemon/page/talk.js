// The conversation: questions, answers as they come, and what is read aloud of them.
import { $, copy, el, icon } from './dom.js';
import { MarkdownView, plainText } from './markdown.js';
import { credits, number, t, tokens, why } from './words.js';

const COPY = 'M7 7V4.5A1.5 1.5 0 0 1 8.5 3h7A1.5 1.5 0 0 1 17 4.5v7a1.5 1.5 0 0 1-1.5 1.5H13M4.5 7h7A1.5 1.5 0 0 1 13 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 3 15.5v-7A1.5 1.5 0 0 1 4.5 7z';
const AGAIN = 'M4 10a6 6 0 1 1 1.8 4.3M4 16v-3.5h3.5';
const COPIED_MS = 2000;
const SPOKEN_MAX = 12; // paragraphs that stay where screen readers look

// --- aloud ---------------------------------------------------------------------------------------

// Where the last whole sentence of a text ends, outside of code; 0: there is none yet.
export function sentenceEnd(text) {
	const ends = /[.!?…](?=["'»”)\]]*\s)["'»”)\]]*|[。！？]|\n\s*\n/g;
	let end = 0;
	for (let m; (m = ends.exec(text)) !== null;)
		end = m.index + m[0].length;
	// In a code block: only to where it begins.
	const fences = [...text.slice(0, end).matchAll(/^ {0,3}(?:```|~~~)/gm)];
	return fences.length % 2 === 1 ? fences[fences.length - 1].index : end;
}

// What comes is put into a live region by sentences: word by word no screen reader could follow.
export class Speaker {
	#at = 0;

	constructor(box = $('speech')) {
		this.box = box;
	}

	// `text` is all of the answer so far.
	follow(text, ended = false) {
		const rest = text.slice(this.#at);
		const end = ended ? rest.length : sentenceEnd(rest);
		if (end === 0)
			return;
		this.#at += end;
		this.say(plainText(rest.slice(0, end), () => t('speech.code')));
	}

	say(words) {
		if (words.trim() === '')
			return;
		this.box.append(el('p', {}, words));
		while (this.box.childElementCount > SPOKEN_MAX)
			this.box.firstElementChild.remove();
	}
}

// --- an answer -----------------------------------------------------------------------------------

function copyButton(label, text) {
	const word = el('span', {}, label);
	const button = el('button', { type: 'button', class: 'quiet' }, icon(COPY), word);
	let timer;
	button.addEventListener('click', async () => {
		try {
			await copy(text());
		} catch {
			return; // the browser forbids it: the text can still be marked
		}
		word.textContent = t('answer.copied');
		clearTimeout(timer);
		timer = setTimeout(() => {
			word.textContent = label;
		}, COPIED_MS);
	});
	return button;
}

function decorate(bar, code) {
	bar.append(copyButton(t('code.copy'), () => code.textContent));
	code.parentElement.setAttribute('aria-label', t('code.label'));
}

export class Answer {
	#view;
	#speaker;
	#limit = 0;
	#known = { tokens: 0, characters: 0 }; // at the last meter event
	#shown = 0;
	#frame = 0;
	#busyUntil = 0;

	constructor({ speaker, onretry }) {
		this.text = '';
		this.onretry = onretry;
		this.#speaker = speaker;
		this.body = el('div', { class: 'text' });
		this.progress = el('progress', { max: 1, value: 0, 'aria-label': t('meter.label') });
		this.count = el('span');
		this.cost = el('span');
		this.meterRow = el('div', { class: 'meter', hidden: true }, this.progress, this.count, this.cost);
		this.foot = el('div', { class: 'end', hidden: true });
		this.element = el('article', { class: 'answer', 'aria-label': t('talk.answer') },
			this.body, this.meterRow, this.foot);
		this.#view = new MarkdownView(this.body, decorate);
	}

	// It is on its way: at most so many tokens (0: not known).
	run(limit) {
		this.#limit = limit;
		this.element.classList.add('runs');
		this.element.setAttribute('aria-busy', 'true');
		if (this.text === '')
			this.body.replaceChildren(this.waiting = el('p', { class: 'wait' }, t('answer.thinking')));
	}

	add(piece) {
		this.text += piece;
		this.#speaker?.follow(this.text);
		// One rendering takes as long as the text is.  Four fifths of the time are left to the browser.
		if (this.#frame === 0)
			this.#frame = setTimeout(() => requestAnimationFrame(() => this.#draw()),
				Math.max(0, this.#busyUntil - performance.now()));
	}

	#draw() {
		this.#frame = 0;
		const start = performance.now();
		this.waiting?.remove();
		this.waiting = null;
		this.#view.set(this.text);
		this.#count();
		const end = performance.now();
		this.#busyUntil = end + 4 * (end - start);
	}

	// Tokens between two meter events are estimated, by the ones before.
	#count() {
		if (this.#limit === 0 || !this.element.classList.contains('runs'))
			return;
		const { tokens: n, characters } = this.#known;
		const ratio = characters > 0 ? n / characters : 0.25;
		const guess = n + Math.round((this.text.length - characters) * ratio);
		this.#shown = Math.min(this.#limit, Math.max(this.#shown, guess));
		this.meterRow.hidden = false;
		this.progress.max = this.#limit;
		this.progress.value = this.#shown;
		this.count.textContent = t('meter.text', { n: number(this.#shown), max: number(this.#limit) });
	}

	meter({ completion_tokens: n, cost }) {
		this.#known = { tokens: n, characters: this.text.length };
		this.cost.textContent = t('meter.cost', { cost: credits(cost) });
		this.#count();
	}

	/*
	 * How it ended: {reason} one of the contract's, or {error}; {cost, tokens} as far as they are
	 * known; `owed`: the charge is still to be written.  aloud: somebody waited for it.
	 */
	end({ reason, error, cost, tokens: n, limit, owed = false, aloud = false, retry = false }) {
		clearTimeout(this.#frame);
		this.#frame = 0;
		this.waiting?.remove();
		this.waiting = null;
		this.element.classList.remove('runs');
		this.element.removeAttribute('aria-busy');
		this.meterRow.hidden = true;
		this.#view.set(this.text);
		const words = error ? t('end.failed', { why: why(error) })
			: t(`end.${reason}`, { tokens: tokens(n ?? limit ?? this.#limit) });
		const bill = [];
		if (n > 0)
			bill.push(tokens(n));
		if (typeof cost === 'number')
			bill.push(cost === 0 ? t('end.free') : t(owed ? 'end.owed' : 'end.cost', { cost: credits(cost) }));
		const good = reason === 'stop';
		this.foot.replaceChildren(el('p', {},
			good ? null : el('span', { class: error || reason !== 'cancelled' ? 'bad' : null }, words),
			good || bill.length === 0 ? null : ' ',
			good && bill.length === 0 ? words : bill.join(' · ')));
		const tools = el('div', { class: 'tools' });
		if (this.text !== '')
			tools.append(copyButton(t('answer.copy'), () => this.text));
		if (retry && this.onretry)
			tools.append(el('button', { type: 'button', class: 'quiet retry', onclick: this.onretry },
				icon(AGAIN), t('answer.retry')));
		this.foot.append(tools);
		this.foot.hidden = false;
		if (aloud && this.#speaker) {
			this.#speaker.follow(this.text, true);
			this.#speaker.say([words, ...bill].join(' '));
		}
	}

	// Only the last answer can be asked for again.
	settle() {
		this.foot.querySelector('.retry')?.remove();
	}
}

// --- all of it -----------------------------------------------------------------------------------

const NEAR_PX = 60;

export class Talk {
	#follow = true; // the end is in sight, and shall stay there
	#was = { top: 0, height: 0 }; // when it was last scrolled
	#last = null;

	constructor() {
		this.scroller = $('talk');
		this.list = $('messages');
		this.scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
		const keep = new ResizeObserver(() => this.#keep());
		keep.observe(this.list);
		keep.observe(this.scroller);
		$('down').addEventListener('click', () => {
			this.toEnd();
			$('question').focus();
		});
	}

	#scrolled() {
		const { scrollTop, scrollHeight, clientHeight } = this.scroller;
		// This is told a moment later, and by then more may have come: that the end is far is no sign of
		// somebody who reads further up, if it was not gone up to.
		if (scrollHeight - scrollTop - clientHeight < NEAR_PX)
			this.#follow = true;
		else if (scrollTop < this.#was.top && scrollHeight >= this.#was.height)
			this.#follow = false;
		this.#was = { top: scrollTop, height: scrollHeight };
		$('down').hidden = this.#follow;
		$('main').classList.toggle('scrolled', scrollTop > 4);
	}

	#keep() {
		if (this.#follow)
			this.scroller.scrollTop = this.scroller.scrollHeight;
	}

	toEnd() {
		this.#follow = true;
		this.#keep();
	}

	clear() {
		this.list.replaceChildren();
		this.#last = null;
		this.hello();
		this.toEnd();
	}

	hello() {
		$('hello').hidden = this.list.childElementCount > 0;
	}

	question(text, before = null) {
		const e = el('article', { class: 'asked', 'aria-label': t('talk.you') }, el('p', {}, text));
		this.list.insertBefore(e, before);
		this.hello();
		return e;
	}

	answer(options, before = null) {
		const answer = new Answer(options);
		this.list.insertBefore(answer.element, before);
		if (before === null) {
			this.#last?.settle();
			this.#last = answer;
		}
		this.hello();
		return answer;
	}

	// A button above all, for what was before; none without `onclick`.
	earlier(onclick) {
		this.list.querySelector('.earlier')?.remove();
		if (onclick)
			this.list.prepend(el('p', { class: 'earlier' },
				el('button', { type: 'button', class: 'quiet', onclick }, t('talk.earlier'))));
	}
}
