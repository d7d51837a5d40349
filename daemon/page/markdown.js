// Markdown, as models write it, to a tree of blocks and to DOM nodes; what is inside of a block is
// inlines.js's.  Never to HTML: what is not understood stays text, and text only ever becomes a text
// node.
//
// Two steps.  blocks(text) is pure and makes plain objects (tests/page runs it in node); MarkdownView
// puts them into an element, and as a text grows makes only the last ones anew.
//
// The text is a stranger's.  Nesting is bounded, no pattern can backtrack over more than a line, and
// pictures are not fetched: they become links.
import { DEPTH_MAX, inlines } from './inlines.js';

const CELLS_MAX = 64; // of a table's row

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
