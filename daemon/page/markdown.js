// Markdown, as models write it, to a tree and to DOM nodes.  Never to HTML: what is not understood
// stays text, and text only ever becomes a text node.
//
// Two steps.  blocks(text) and inlines(text) are pure and make plain objects (tests/page runs them in
// node); MarkdownView puts them into an element, and as a text grows makes only the last block anew.
//
// The text is a stranger's.  Nesting is bounded, no pattern can backtrack over more than a line, and
// a link leads to http, https or mailto or is none.  Pictures are not fetched: they become links.

const DEPTH_MAX = 12; // of quotes and lists in each other, and of emphasis
const CELLS_MAX = 64; // of a table's row
const LINK_MAX = 1024;
const INLINE_MAX = 20000; // a longer paragraph is no prose: it stays as it is

// --- blocks --------------------------------------------------------------------------------------

const FENCE = /^( {0,3})(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/;
const DELIMITER_CELL = /^:?-+:?$/;

function isFence(line) {
	const m = FENCE.exec(line);
	return m !== null && !(m[2][0] === '`' && m[3].includes('`')) ? m : null;
}

function indentOf(line) {
	let n = 0;
	while (line[n] === ' ')
		n++;
	return n;
}

// Does a line begin something other than a paragraph, and so end one?
function interrupts(line) {
	if (isFence(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line))
		return true;
	const item = ITEM.exec(line);
	// A year at the start of a line is no list; "1." is.
	return item !== null && item[4] !== undefined && (!/\d/.test(item[2]) || /^1[.)]/.test(item[2]));
}

// A row's cells; "\|" is no border, and none stands in code.
function cellsOf(line) {
	const cells = [];
	let cell = '', code = false;
	const text = line.trim().replace(/^\|/, '');
	for (let i = 0; i < text.length; i++) {
		if (text[i] === '\\' && text[i + 1] === '|') {
			cell += '|';
			i++;
		} else if (text[i] === '|' && !code) {
			cells.push(cell.trim());
			cell = '';
		} else {
			if (text[i] === '`')
				code = !code && text.indexOf('`', i + 1) > 0;
			cell += text[i];
		}
	}
	if (cell.trim() !== '')
		cells.push(cell.trim());
	return cells.slice(0, CELLS_MAX);
}

function alignsOf(line) {
	if (line === undefined || !line.includes('-') || !/^[ \t|:-]+$/.test(line))
		return null;
	const cells = cellsOf(line);
	if (cells.length === 0 || !cells.every((c) => DELIMITER_CELL.test(c)))
		return null;
	return cells.map((c) => {
		if (c.endsWith(':'))
			return c.startsWith(':') ? 'center' : 'right';
		return c.startsWith(':') ? 'left' : '';
	});
}

// Where a list's item ends: a line that is indented less than its text and no lazy continuation.
function takeItem(lines, from, indent) {
	const body = [];
	let i = from, blank = false, fence = null;
	for (; i < lines.length; i++) {
		const line = lines[i];
		if (line.trim() === '') {
			body.push('');
			blank = true;
			continue;
		}
		if (indentOf(line) >= indent) {
			const inner = line.slice(indent);
			const m = isFence(inner);
			if (fence === null && m)
				fence = m[2];
			else if (fence !== null && m && m[2].startsWith(fence) && m[3].trim() === '')
				fence = null;
			body.push(inner);
		} else if (blank || fence !== null || interrupts(line) || ITEM.test(line)) {
			break;
		} else {
			body.push(line.trimStart());
		}
		blank = false;
	}
	let loose = 0; // blank lines at its end are not its own
	while (body.length > 0 && body[body.length - 1] === '') {
		body.pop();
		loose++;
	}
	return { body, next: i, trailing: loose };
}

function takeList(lines, from, depth) {
	const first = ITEM.exec(lines[from]);
	const ordered = /\d/.test(first[2]);
	const mark = first[2][first[2].length - 1];
	const list = { type: 'list', ordered, start: ordered ? Number.parseInt(first[2], 10) : 1, items: [] };
	let i = from, loose = false;
	while (i < lines.length) {
		const m = ITEM.exec(lines[i]);
		if (m === null || m[2][m[2].length - 1] !== mark || RULE.test(lines[i]))
			break;
		// Text that begins far behind its mark is code in a list; here it is text.
		const gap = m[3] === undefined || m[3].length > 4 || m[4] === '' ? 1 : m[3].length;
		const item = takeItem(lines, i + 1, m[1].length + m[2].length + gap);
		const body = [m[4] ?? '', ...item.body];
		const task = /^\[([ xX])\][ \t]+/.exec(body[0]);
		if (task)
			body[0] = body[0].slice(task[0].length);
		loose ||= item.body.includes('');
		list.items.push({
			task: task ? task[1] !== ' ' : undefined,
			blocks: parse(body, depth + 1),
		});
		i = item.next;
		loose ||= item.trailing > 0 && i < lines.length && ITEM.test(lines[i]);
	}
	list.tight = !loose;
	return { block: list, next: i };
}

function takeFence(lines, from, m) {
	const code = [];
	const closing = new RegExp(`^ {0,3}\\${m[2][0]}{${m[2].length},}[ \\t]*$`);
	let i = from + 1;
	for (; i < lines.length && !closing.test(lines[i]); i++)
		code.push(lines[i].slice(Math.min(m[1].length, indentOf(lines[i]))));
	const lang = /^[\w+#.-]{1,40}/.exec(m[3].trim());
	return {
		block: { type: 'code', lang: lang ? lang[0] : '', text: code.join('\n'), open: i >= lines.length },
		next: Math.min(i + 1, lines.length),
	};
}

function takeQuote(lines, from, depth) {
	const body = [];
	let i = from;
	for (; i < lines.length; i++) {
		if (QUOTE.test(lines[i]))
			body.push(lines[i].replace(/^ {0,3}> ?/, ''));
		else if (lines[i].trim() === '' || interrupts(lines[i]))
			break;
		else
			body.push(lines[i]);
	}
	return { block: { type: 'quote', blocks: parse(body, depth + 1) }, next: i };
}

function takeTable(lines, from, aligns) {
	const fit = (cells) => aligns.map((_, i) => cells[i] ?? '');
	const rows = [];
	let i = from + 2;
	for (; i < lines.length && lines[i].includes('|') && lines[i].trim() !== ''; i++)
		rows.push(fit(cellsOf(lines[i])));
	return { block: { type: 'table', aligns, head: fit(cellsOf(lines[from])), rows }, next: i };
}

// One block, from a line that is not blank: {block, next}.
function takeBlock(lines, from, depth) {
	const line = lines[from];
	const fence = isFence(line);
	let m;

	if (fence)
		return takeFence(lines, from, fence);
	if ((m = HEADING.exec(line)) !== null)
		return {
			block: { type: 'heading', level: m[1].length, text: (m[2] ?? '').replace(/(?:^|[ \t])#+[ \t]*$/, '').trim() },
			next: from + 1,
		};
	if (RULE.test(line))
		return { block: { type: 'rule' }, next: from + 1 };
	if (depth < DEPTH_MAX && QUOTE.test(line))
		return takeQuote(lines, from, depth);
	if (depth < DEPTH_MAX && ITEM.test(line))
		return takeList(lines, from, depth);
	if (line.includes('|')) {
		const aligns = alignsOf(lines[from + 1]);
		if (aligns !== null && cellsOf(line).length === aligns.length)
			return takeTable(lines, from, aligns);
	}
	let i = from + 1;
	while (i < lines.length && lines[i].trim() !== '' && !(depth < DEPTH_MAX && interrupts(lines[i])) &&
	    !(lines[i].includes('|') && alignsOf(lines[i + 1])?.length === cellsOf(lines[i]).length))
		i++;
	return { block: { type: 'paragraph', text: lines.slice(from, i).map((l) => l.trimStart()).join('\n') }, next: i };
}

function parse(lines, depth) {
	const out = [];
	for (let i = 0; i < lines.length;) {
		if (lines[i].trim() === '') {
			i++;
			continue;
		}
		const { block, next } = takeBlock(lines, i, depth);
		block.from = i; // its first line, and the one behind its last
		block.to = next;
		out.push(block);
		i = next;
	}
	return out;
}

function normal(text) {
	return text.replace(/\r\n?/g, '\n').replace(/\t/g, '    ');
}

export function blocks(text) {
	return parse(normal(text).split('\n'), 0);
}

// --- inside of a block ---------------------------------------------------------------------------

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

// --- what it says, for those who listen ----------------------------------------------------------

function plainInline(nodes) {
	return nodes.map((n) => {
		if (typeof n === 'string')
			return n;
		if (n.type === 'break')
			return ' ';
		return n.type === 'code' ? n.text : plainInline(n.nodes);
	}).join('');
}

function plainBlocks(list, sayCode) {
	return list.map((b) => {
		switch (b.type) {
		case 'code': return sayCode(b);
		case 'rule': return '';
		case 'quote': return plainBlocks(b.blocks, sayCode);
		case 'list': return b.items.map((i) => plainBlocks(i.blocks, sayCode)).join('\n');
		case 'table': return [b.head, ...b.rows].map((r) => r.map((c) => plainInline(inlines(c))).join(', ')).join('\n');
		default: return plainInline(inlines(b.text));
		}
	}).filter((t) => t !== '').join('\n');
}

// Markdown without its marks; sayCode(block) is said in a code block's place.
export function plainText(text, sayCode = (block) => block.text) {
	return plainBlocks(blocks(text), sayCode);
}

// --- into the page -------------------------------------------------------------------------------

// Lists are put in one by one: as arguments, thousands of them would fill the stack.
function make(name, className, ...children) {
	const e = document.createElement(name);
	if (className)
		e.className = className;
	for (const c of children.flat())
		e.append(c);
	return e;
}

function domInline(nodes) {
	return nodes.map((n) => {
		if (typeof n === 'string')
			return document.createTextNode(n);
		switch (n.type) {
		case 'break': return make('br');
		case 'code': return make('code', '', n.text);
		case 'link': {
			const a = make('a', n.image ? 'image' : '', domInline(n.nodes));
			a.href = n.href;
			a.rel = 'noopener noreferrer nofollow';
			a.target = '_blank';
			return a;
		}
		default: return make(n.type, '', domInline(n.nodes)); // em, strong, del
		}
	});
}

const HEADINGS = ['h3', 'h3', 'h4', 'h5', 'h6', 'h6']; // h1 and h2 are the page's own

function domItem(item, tight, decorate) {
	const li = make('li', item.task === undefined ? '' : 'task');
	if (item.task !== undefined)
		li.append(item.task ? '☑ ' : '☐ ');
	for (const b of item.blocks)
		if (tight && b.type === 'paragraph')
			li.append(...domInline(inlines(b.text)));
		else
			li.append(domBlock(b, decorate));
	return li;
}

function domTable(b) {
	const row = (cells, name) => make('tr', '', cells.map((c, i) => {
		const cell = make(name, b.aligns[i], domInline(inlines(c)));
		if (name === 'th')
			cell.scope = 'col';
		return cell;
	}));
	const table = make('table', '', make('thead', '', row(b.head, 'th')), make('tbody', '', b.rows.map((r) => row(r, 'td'))));
	const box = make('div', 'table', table);
	box.tabIndex = 0; // so that a wide one can be scrolled by the keyboard
	box.setAttribute('role', 'group');
	return box;
}

// A code block; `decorate` adds to its bar (a button to copy, say).
function domCode(b, decorate) {
	const code = make('code', '', document.createTextNode(b.text));
	const pre = make('pre', '', code);
	const bar = make('div', 'bar', make('span', '', b.lang));
	const box = make('div', 'code', bar, pre);
	pre.tabIndex = 0;
	decorate?.(bar, code, b);
	return box;
}

function domBlock(b, decorate) {
	switch (b.type) {
	case 'heading': return make(HEADINGS[b.level - 1], '', domInline(inlines(b.text)));
	case 'rule': return make('hr');
	case 'code': return domCode(b, decorate);
	case 'quote': return make('blockquote', '', b.blocks.map((x) => domBlock(x, decorate)));
	case 'table': return domTable(b);
	case 'list': {
		const list = make(b.ordered ? 'ol' : 'ul', '', b.items.map((i) => domItem(i, b.tight, decorate)));
		if (b.ordered && b.start !== 1)
			list.start = b.start;
		return list;
	}
	default: return make('p', '', domInline(inlines(b.text)));
	}
}

// A text that grows in an element.  Blocks are made once and then stay, but for the last ones: those
// that a line which is not whole yet, or the one before it, could still change.  Nothing in this
// Markdown refers back to what is further up.
export class MarkdownView {
	#element;
	#decorate;
	#text = '';
	#done = 0; // characters of the blocks that stay
	#tail = []; // {block, node} of those behind

	constructor(element, decorate) {
		this.#element = element;
		this.#decorate = decorate;
	}

	set(source) {
		const text = normal(source);
		if (!text.startsWith(this.#text)) {
			this.#element.replaceChildren();
			this.#tail = [];
			this.#done = 0;
		}
		this.#text = text;
		const lines = text.slice(this.#done).split('\n');
		const list = parse(lines, 0);
		if (!this.#grew(list)) {
			for (const { node } of this.#tail)
				node.remove();
			this.#tail = list.map((block) => ({ block, node: domBlock(block, this.#decorate) }));
			for (const { node } of this.#tail)
				this.#element.append(node);
		}
		let stay = 0;
		while (stay + 1 < list.length && list[stay + 1].from <= lines.length - 3)
			stay++;
		if (stay === 0)
			return;
		this.#tail.splice(0, stay);
		for (let i = 0; i < list[stay].from; i++)
			this.#done += lines[i].length + 1;
	}

	// A long code block is not made anew for each of its lines.
	#grew(list) {
		const old = this.#tail[0]?.block, now = list[0];
		if (this.#tail.length !== 1 || list.length !== 1 || old.type !== 'code' || now.type !== 'code' ||
		    old.lang !== now.lang || !now.text.startsWith(old.text))
			return false;
		this.#tail[0].node.querySelector('code').firstChild.appendData(now.text.slice(old.text.length));
		this.#tail[0].block = now;
		return true;
	}
}
