// What is inside of a block of Markdown: emphasis, code, links.  Pure: a text to a list of texts and
// plain objects {type, nodes, …}.
//
// The text is a stranger's: a link leads to http, https or mailto or is none, nesting is bounded, and no
// text takes much longer than its length.

export const DEPTH_MAX = 12; // of emphasis in itself, and of quotes and lists in each other
const LINK_MAX = 1024;
const INLINE_MAX = 20000; // a longer paragraph is no prose: it stays as it is

const ENTITIES = {
	amp: '&', lt: '<', gt: '>', quot: '"', apos: '\'', nbsp: '\u00a0', copy: '©', reg: '®', trade: '™',
	hellip: '…', mdash: '—', ndash: '–', larr: '←', rarr: '→', times: '×', deg: '°', euro: '€',
};
const PUNCTUATION = /[!-/:-@[-`{-~]/;

// A link's address if it may lead there, else null.
export function safeHref(text) {
	const href = text.trim();
	if (href.length > LINK_MAX || !/^(?:https?:\/\/|mailto:)[^\s]/i.test(href))
		return null;
	try {
		const url = new URL(href);
		return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : null;
	} catch {
		return null;
	}
}

function entityAt(text, i) {
	const m = /^&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]{2,8}));/.exec(text.slice(i, i + 12));
	if (m === null)
		return null;
	if (m[3] !== undefined)
		return Object.hasOwn(ENTITIES, m[3]) ? { text: ENTITIES[m[3]], length: m[0].length } : null;
	const code = m[1] !== undefined ? Number.parseInt(m[1], 10) : Number.parseInt(m[2], 16);
	const good = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
	return { text: good ? String.fromCodePoint(code) : '\ufffd', length: m[0].length };
}

function isSpace(c) {
	return c === undefined || /\s/.test(c);
}

function isPunctuation(c) {
	return c !== undefined && /[\p{P}\p{S}]/u.test(c);
}

// `(address "title")` behind a link's text, from i: {href, next}.
function destinationAt(text, i) {
	let depth = 0, start = ++i, href;
	while (text[i] === ' ' || text[i] === '\n')
		start = ++i;
	if (text[i] === '<') {
		const end = text.slice(i, i + LINK_MAX).search(/[>\n]/);
		if (end < 0 || text[i + end] !== '>')
			return null;
		href = text.slice(i + 1, i + end);
		i += end + 1;
	} else {
		for (; i < text.length && i - start <= LINK_MAX && !isSpace(text[i]); i++) {
			if (text[i] === '\\' && i + 1 < text.length)
				i++;
			else if (text[i] === '(')
				depth++;
			else if (text[i] === ')' && depth-- === 0)
				break;
		}
		href = text.slice(start, i);
	}
	const rest = /^[ \n]*(?:"[^"]{0,1000}"|'[^']{0,1000}')?[ \n]*\)/.exec(text.slice(i, i + 1100));
	if (rest === null)
		return null;
	return { href: href.replace(/\\([!-/:-@[-`{-~])/g, '$1'), next: i + rest[0].length };
}

// A bare address in the text: to the last character that can belong to it.
function bareAt(text, i) {
	const m = /^https?:\/\/[^\s<>"'`\u0000-\u001f]{1,1000}/i.exec(text.slice(i, i + 1010));
	if (m === null)
		return null;
	let url = m[0].replace(/[.,;:!?*_~]+$/, '');
	while (url.endsWith(')') && url.split(')').length > url.split('(').length)
		url = url.slice(0, -1).replace(/[.,;:!?*_~]+$/, '');
	return url;
}

class Inline {
	constructor(text) {
		this.text = text;
		this.nodes = []; // texts, finished nodes, and runs of delimiters
		this.brackets = []; // of links that may have begun: indices in nodes
		this.closers = new Map(); // a run of backticks of this length is not found any more
		this.plain = '';
	}

	flush() {
		if (this.plain !== '')
			this.nodes.push(this.plain);
		this.plain = '';
	}

	push(node) {
		this.flush();
		this.nodes.push(node);
	}

	code(i) {
		const { text } = this;
		let n = 1;
		while (text[i + n] === '`')
			n++;
		if (!this.closers.get(n)) {
			for (let at = i + n; (at = text.indexOf('`', at)) >= 0;) {
				let m = 1;
				while (text[at + m] === '`')
					m++;
				if (m === n) {
					let inner = text.slice(i + n, at).replace(/\n/g, ' ');
					if (/^ .*[^ ].* $/.test(inner))
						inner = inner.slice(1, -1);
					this.push({ type: 'code', text: inner });
					return at + m;
				}
				at += m;
			}
			this.closers.set(n, true);
		}
		this.plain += '`'.repeat(n);
		return i + n;
	}

	delimiters(i) {
		const { text } = this;
		const mark = text[i];
		let n = 1;
		while (text[i + n] === mark)
			n++;
		const before = text[i - 1], after = text[i + n];
		const left = !isSpace(after) && (!isPunctuation(after) || isSpace(before) || isPunctuation(before));
		const right = !isSpace(before) && (!isPunctuation(before) || isSpace(after) || isPunctuation(after));
		const inWord = mark === '_';
		this.push({
			type: 'run', mark, n, length: n,
			opens: left && (!inWord || !right || isPunctuation(before)),
			closes: right && (!inWord || !left || isPunctuation(after)),
		});
		return i + n;
	}

	// "]": a link, if a "[" is open and an address follows.
	bracket(i) {
		const open = this.brackets.pop();
		const to = open !== undefined && this.text[i + 1] === '(' ? destinationAt(this.text, i + 1) : null;
		if (to === null) {
			this.plain += ']';
			return i + 1;
		}
		this.flush();
		const { image } = this.nodes[open];
		const inner = unlinked(emphasis(this.nodes.splice(open).slice(1)));
		const href = safeHref(to.href);
		if (href === null) {
			// What may not be followed is shown for what it is.
			this.nodes.push(image ? '![' : '[', ...inner, `](${to.href})`);
		} else {
			this.nodes.push({ type: 'link', href, image, nodes: inner.length > 0 ? inner : [href], depth: depthOf(inner) });
			if (!image)
				this.brackets = []; // no link in a link
		}
		return to.next;
	}

	angle(i) {
		const m = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,1000})>/i.exec(this.text.slice(i, i + 1010));
		const href = m === null ? null : safeHref(m[1]);
		if (href === null) {
			const br = /^<br\s{0,3}\/?>/i.exec(this.text.slice(i, i + 9));
			if (br === null) {
				this.plain += '<';
				return i + 1;
			}
			this.push({ type: 'break' });
			return i + br[0].length;
		}
		this.push({ type: 'link', href, nodes: [m[1].replace(/^mailto:/i, '')] });
		return i + m[0].length;
	}

	escape(i) {
		const c = this.text[i + 1];
		if (c === '\n') {
			this.push({ type: 'break' });
			return i + 2;
		}
		this.plain += c !== undefined && PUNCTUATION.test(c) ? c : `\\${c ?? ''}`;
		return i + 2;
	}

	open(i, image) {
		this.flush();
		this.brackets.push(this.nodes.length);
		if (this.brackets.length > 64)
			this.brackets.shift();
		this.nodes.push({ type: 'open', image, text: image ? '![' : '[' });
		return i + (image ? 2 : 1);
	}

	other(i) {
		const { text } = this;
		const c = text[i];
		if (c === '&') {
			const entity = entityAt(text, i);
			this.plain += entity ? entity.text : '&';
			return i + (entity ? entity.length : 1);
		}
		if ((c === 'h' || c === 'H') && !/[\w]/.test(text[i - 1] ?? ' ') && /^https?:\/\//i.test(text.slice(i, i + 8))) {
			const url = bareAt(text, i);
			const href = url === null ? null : safeHref(url);
			// In a link's text it is text.
			if (href !== null && this.brackets.length === 0) {
				this.push({ type: 'link', href, nodes: [url] });
				return i + url.length;
			}
		}
		this.plain += c;
		return i + 1;
	}

	run() {
		const { text } = this;
		for (let i = 0; i < text.length;) {
			switch (text[i]) {
			case '\\': i = this.escape(i); break;
			case '`': i = this.code(i); break;
			case '*': case '_': case '~': i = this.delimiters(i); break;
			case '!': i = text[i + 1] === '[' ? this.open(i, true) : this.other(i); break;
			case '[': i = this.open(i, false); break;
			case ']': i = this.bracket(i); break;
			case '<': i = this.angle(i); break;
			case '\n':
				this.plain = this.plain.trimEnd();
				this.push({ type: 'break' });
				i++;
				break;
			default: i = this.other(i);
			}
		}
		this.flush();
		return emphasis(this.nodes);
	}
}

// Runs of * _ ~ to em, strong and del, from the inside out (the algorithm of CommonMark's appendix,
// with its bound: a closer never looks again where none of its kind opened).
function emphasis(nodes) {
	const list = [];
	const bottom = new Map();
	for (const node of nodes) {
		if (node.type !== 'run') {
			list.push(node.type === 'open' ? node.text : node);
			continue;
		}
		while (node.closes && node.n > 0) {
			const kind = `${node.mark}${node.opens}${node.mark === '~' ? node.n : node.length % 3}`;
			const floor = bottom.get(kind) ?? 0;
			let at = list.length - 1;
			while (at >= floor && !opensFor(list[at], node))
				at--;
			if (at < floor) {
				bottom.set(kind, list.length);
				break;
			}
			const open = list[at];
			const n = node.mark === '~' ? node.n : open.n >= 2 && node.n >= 2 ? 2 : 1;
			const inner = list.splice(at + 1).map(plainRun);
			const depth = depthOf(inner) + 1;
			open.n -= n;
			node.n -= n;
			if (open.n === 0)
				list.pop();
			for (const [key, value] of bottom)
				bottom.set(key, Math.min(value, list.length));
			if (depth > DEPTH_MAX)
				list.push(...inner);
			else
				list.push({ type: node.mark === '~' ? 'del' : n === 2 ? 'strong' : 'em', nodes: inner, depth });
		}
		if (node.n > 0)
			list.push(node.opens ? node : node.mark.repeat(node.n));
	}
	return joined(list.map(plainRun));
}

function opensFor(open, closer) {
	if (open.type !== 'run' || open.mark !== closer.mark || !open.opens)
		return false;
	if (closer.mark === '~')
		return open.n === closer.n && open.n <= 2;
	// CommonMark's rule of three: **a*b*c** is not what it looks like to a naive reader.
	return !(open.closes || closer.opens) || (open.length + closer.length) % 3 !== 0 ||
		(open.length % 3 === 0 && closer.length % 3 === 0);
}

function depthOf(nodes) {
	return nodes.reduce((most, n) => Math.max(most, n.depth ?? 0), 0);
}

// No link stands in a link.
function unlinked(nodes) {
	return nodes.flatMap((n) => {
		if (n.type === 'link')
			return unlinked(n.nodes);
		return n.nodes ? [{ ...n, nodes: unlinked(n.nodes) }] : [n];
	});
}

function plainRun(node) {
	return node.type === 'run' ? node.mark.repeat(node.n) : node;
}

function joined(nodes) {
	const out = [];
	for (const node of nodes)
		if (typeof node === 'string' && typeof out[out.length - 1] === 'string')
			out[out.length - 1] += node;
		else
			out.push(node);
	return out;
}

export function inlines(text) {
	if (text.length > INLINE_MAX)
		return [text];
	return new Inline(text).run();
}
