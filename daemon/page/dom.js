// Small things that all parts of the page use.

export const $ = (id) => document.getElementById(id);

// An element: el('p', {class: 'x', onclick: f}, 'text', node …).  What is null or false is left out.
export function el(name, about = {}, ...children) {
	const e = document.createElement(name);
	for (const [key, value] of Object.entries(about)) {
		if (value === null || value === undefined || value === false)
			continue;
		if (key.startsWith('on'))
			e.addEventListener(key.slice(2), value);
		else
			e.setAttribute(key, value === true ? '' : value);
	}
	e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
	return e;
}

const SVG = 'http://www.w3.org/2000/svg';

export function icon(path) {
	const svg = document.createElementNS(SVG, 'svg');
	svg.setAttribute('viewBox', '0 0 20 20');
	svg.setAttribute('aria-hidden', 'true');
	const p = document.createElementNS(SVG, 'path');
	p.setAttribute('d', path);
	svg.append(p);
	return svg;
}

// Storage that may be full, forbidden or not there: then nothing is kept, and nothing breaks.
export const store = {
	get(kind, name) {
		try {
			return globalThis[kind].getItem(`tolld.${name}`);
		} catch {
			return null;
		}
	},
	set(kind, name, value) {
		try {
			if (value === null)
				globalThis[kind].removeItem(`tolld.${name}`);
			else
				globalThis[kind].setItem(`tolld.${name}`, value);
		} catch {
			// See above.
		}
	},
};

// The clipboard, or where it is not to be had (plain http) the old way.
export async function copy(text) {
	if (navigator.clipboard)
		return navigator.clipboard.writeText(text);
	const area = el('textarea', { class: 'unseen', readonly: true, 'aria-hidden': 'true' });
	const before = document.activeElement;
	area.value = text;
	document.body.append(area);
	area.select();
	const done = document.execCommand('copy');
	area.remove();
	before?.focus();
	if (!done)
		throw new Error('copy');
	return undefined;
}
