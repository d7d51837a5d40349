// Conversations and credit, at the side; on a phone behind a button.
import { $, el, icon, store } from './dom.js';
import { ago, amount, credits, t } from './words.js';

const BIN = 'M4 6h12M8.5 6V4.5h3V6M6 6l.6 9.5a1 1 0 0 0 1 .9h4.8a1 1 0 0 0 1-.9L14 6M8.5 9v4.5M11.5 9v4.5';
const THEMES = ['system', 'light', 'dark'];

export class Sidebar {
	#back = null; // what had the focus

	// onforget(session), onmore(), onnew(), onleave()
	constructor(on) {
		this.on = on;
		$('menu').addEventListener('click', () => this.open());
		$('side-close').addEventListener('click', () => this.close());
		$('shade').addEventListener('click', () => this.close());
		$('new').addEventListener('click', () => {
			this.close(false);
			on.onnew();
		});
		$('more').addEventListener('click', () => on.onmore());
		$('leave').addEventListener('click', () => on.onleave());
		$('theme').addEventListener('click', () => this.#turn());
		matchMedia('(max-width: 52rem)').addEventListener('change', () => this.close(false));
		this.#themed();
	}

	get isOpen() {
		return $('app').classList.contains('side-open');
	}

	open() {
		this.#back = document.activeElement;
		$('app').classList.add('side-open');
		$('shade').hidden = false;
		$('main').inert = true;
		$('menu').setAttribute('aria-expanded', 'true');
		$('side-close').focus();
	}

	close(focus = true) {
		if (!this.isOpen)
			return;
		$('app').classList.remove('side-open');
		$('shade').hidden = true;
		$('main').inert = false;
		$('menu').setAttribute('aria-expanded', 'false');
		if (focus)
			(this.#back ?? $('menu')).focus();
	}

	#theme() {
		const theme = document.documentElement.dataset.theme;
		return THEMES.includes(theme) ? theme : 'system';
	}

	#themed() {
		$('theme').textContent = t(`theme.${this.#theme()}`);
	}

	#turn() {
		const next = THEMES[(THEMES.indexOf(this.#theme()) + 1) % THEMES.length];
		if (next === 'system')
			delete document.documentElement.dataset.theme;
		else
			document.documentElement.dataset.theme = next;
		store.set('localStorage', 'theme', next === 'system' ? null : next);
		this.#themed();
	}

	// sessions: [{id, title, time, running}]; note: why there are none.
	sessions(list, here, { more = false, note = '' } = {}) {
		const focused = document.activeElement;
		const row = focused?.closest?.('.session')?.dataset.id;
		$('sessions').replaceChildren(...list.map((s) => this.#row(s, s.id === here)));
		$('sessions-note').textContent = note;
		$('sessions-note').hidden = note === '';
		$('more').hidden = !more;
		if (row)
			$('sessions').querySelector(`[data-id="${CSS.escape(row)}"] ${focused.localName}`)?.focus();
	}

	#row(s, here) {
		const title = s.title || t('side.untitled');
		return el('li', { class: here ? 'session here' : 'session', 'data-id': s.id },
			el('a', { href: `#s=${encodeURIComponent(s.id)}`, 'aria-current': here ? 'page' : null, onclick: () => this.close(false) },
				el('span', { class: 'title' }, title),
				el('span', { class: 'when' }, s.running ? t('side.running') : s.time ? ago(s.time) : '')),
			this.on.onforget && el('button', {
				type: 'button', class: 'icon', 'aria-label': t('side.forget', { title }), onclick: () => this.on.onforget(s),
			}, icon(BIN)));
	}

	credit({ balance, held, available }) {
		if (typeof available === 'number') {
			$('available').textContent = amount(available, true);
			$('available').title = credits(available);
		}
		if (typeof balance === 'number') {
			$('balance').textContent = amount(balance, true);
			$('balance').title = credits(balance);
		}
		if (typeof held === 'number') {
			$('held').textContent = amount(held);
			$('held-row').hidden = held === 0;
		}
	}
}

// Asked and answered in a dialog of the page's own; a new one each time, so that no answer is taken for
// another question's.
export function confirm(title, text, yes) {
	const dialog = el('dialog', { id: 'confirm', 'aria-labelledby': 'confirm-title', 'aria-describedby': 'confirm-text' },
		el('form', { method: 'dialog' },
			el('h2', { id: 'confirm-title' }, title),
			el('p', { id: 'confirm-text' }, text),
			el('div', { class: 'row' },
				el('button', { value: 'no', class: 'quiet' }, t('no')),
				el('button', { value: 'yes', class: 'danger', id: 'confirm-yes' }, yes))));
	document.body.append(dialog);
	dialog.showModal();
	return new Promise((resolve) => {
		dialog.addEventListener('close', () => {
			dialog.remove();
			resolve(dialog.returnValue === 'yes');
		});
	});
}
