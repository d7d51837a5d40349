#!/usr/bin/env node
// Goal:   Markdown is read as its writers mean it, nothing in it can do anything but be read, and a
//         text that grows looks in the end as if it had come at once.
// Method: the pure functions against tables; the view against a document of this file's own, which
//         has no way to make an element from a text.
import assert from 'node:assert/strict';
import test from 'node:test';
import { inlines, safeHref } from '../../daemon/page/inlines.js';
import { MarkdownView, blocks, plainText } from '../../daemon/page/markdown.js';

// --- a document ----------------------------------------------------------------------------------

class TextNode {
	constructor(data) {
		this.data = String(data);
	}

	appendData(more) {
		this.data += more;
	}

	get html() {
		return this.data.replace(/&/g, '&amp;').replace(/</g, '&lt;');
	}
}

const NAMES = new Set(('p h3 h4 h5 h6 hr br div span pre code blockquote ul ol li table thead tbody tr th td a em ' +
	'strong del').split(' '));

class Element {
	constructor(name) {
		assert.ok(NAMES.has(name), `an element <${name}>`);
		this.name = name;
		this.children = [];
	}

	append(...nodes) {
		for (const n of nodes) {
			const node = typeof n === 'string' ? new TextNode(n) : n;
			node.parent = this;
			this.children.push(node);
		}
	}

	remove() {
		this.parent.children.splice(this.parent.children.indexOf(this), 1);
	}

	replaceChildren() {
		this.children = [];
	}

	setAttribute(name, value) {
		assert.equal(name, 'role');
		this[name] = value;
	}

	get firstChild() {
		return this.children[0];
	}

	querySelector(name) {
		for (const c of this.children) {
			const found = c.name === name ? c : c.querySelector?.(name);
			if (found)
				return found;
		}
		return null;
	}

	get html() {
		const about = ['className', 'href', 'rel', 'target', 'start'].filter((k) => this[k])
			.map((k) => ` ${k === 'className' ? 'class' : k}="${this[k]}"`).join('');
		return `<${this.name}${about}>${this.children.map((c) => c.html).join('')}</${this.name}>`;
	}

	*all() {
		yield this;
		for (const c of this.children)
			if (c instanceof Element)
				yield *c.all();
	}
}

globalThis.document = {
	createElement: (name) => new Element(name),
	createTextNode: (text) => new TextNode(text),
};

function render(text) {
	const root = new Element('div');
	new MarkdownView(root).set(text);
	return root;
}

const html = (text) => render(text).children.map((c) => c.html).join('')
	.replaceAll(' rel="noopener noreferrer nofollow" target="_blank"', '');

// --- what it means -------------------------------------------------------------------------------

const BLOCKS = [
	['one\ntwo\n\nthree', '<p>one<br></br>two</p><p>three</p>'],
	['# A #\n### B\n#C', '<h3>A</h3><h4>B</h4><p>#C</p>'],
	['####### seven', '<p>####### seven</p>'],
	['a\n---\nb\n***', '<p>a</p><hr></hr><p>b</p><hr></hr>'],
	['- a\n- b\n\nc', '<ul><li>a</li><li>b</li></ul><p>c</p>'],
	['* a\n  * b\n    * c\n* d', '<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>'],
	['3. a\n4. b\n- c', '<ol start="3"><li>a</li><li>b</li></ol><ul><li>c</li></ul>'],
	['- a\n\n  b\n- c', '<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>'],
	['1. a\n   ```\n   x\n\n   y\n   ```\n2. b', '<ol><li>a<div class="code"><div class="bar"><span></span></div><pre><code>x\n\ny</code></pre></div></li><li>b</li></ol>'.replace('<li>a', '<li><p>a</p>').replace('<li>b</li>', '<li><p>b</p></li>')],
	['- [ ] a\n- [x] b', '<ul><li class="task">☐ a</li><li class="task">☑ b</li></ul>'],
	['1984. It was\n\nIn the year\n1984. It was', '<ol start="1984"><li>It was</li></ol><p>In the year<br></br>1984. It was</p>'],
	['Steps:\n1. a', '<p>Steps:</p><ol><li>a</li></ol>'],
	['> a\n> > b\n\nc', '<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>'],
	['> a\nb', '<blockquote><p>a<br></br>b</p></blockquote>'],
	['```js\nx < 1 && "y"\n```\nz', '<div class="code"><div class="bar"><span>js</span></div><pre><code>x &lt; 1 &amp;&amp; "y"</code></pre></div><p>z</p>'],
	['~~~\n```\n~~~', '<div class="code"><div class="bar"><span></span></div><pre><code>```</code></pre></div>'],
	['````\n```\n````', '<div class="code"><div class="bar"><span></span></div><pre><code>```</code></pre></div>'],
	['```\nnot closed', '<div class="code"><div class="bar"><span></span></div><pre><code>not closed</code></pre></div>'],
	['| a | b |\n|---|:-:|\n| 1 |\n| `x|y` | \\| | z |', '<div class="table"><table><thead><tr><th>a</th><th class="center">b</th></tr></thead><tbody>' +
		'<tr><td>1</td><td class="center"></td></tr><tr><td><code>x|y</code></td><td class="center">|</td></tr></tbody></table></div>'],
	['Look:\na | b\n-|-\n1 | 2', '<p>Look:</p><div class="table"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>'],
	['a | b\nno table', '<p>a | b<br></br>no table</p>'],
	['', ''],
	['\n \n', ''],
	['a\r\nb\tc', '<p>a<br></br>b    c</p>'],
];

test('blocks', () => {
	for (const [text, want] of BLOCKS)
		assert.equal(html(text), want, JSON.stringify(text));
});

const INLINES = [
	['*a* **b** ***c*** _d_ __e__ ~~f~~', '<em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del>'],
	['**a *b* c** a*b*c snake_case_name 2 * 3 * 4', '<strong>a <em>b</em> c</strong> a<em>b</em>c snake_case_name 2 * 3 * 4'],
	['**not closed and *this neither', '**not closed and *this neither'],
	['**жирный**текст, «*да*»', '<strong>жирный</strong>текст, «<em>да</em>»'],
	['`a*b*` ``c`d`` `` ` `` `open', '<code>a*b*</code> <code>c`d</code> <code>`</code> `open'],
	['\\*a\\* \\a \\\\ b\\', '*a* \\a \\ b\\'],
	['a\\\nb', 'a<br></br>b'],
	['&lt;b&gt; &amp; &#65; &#x42; &#0; &#xD800; &bogus; &', '&lt;b> &amp; A B \ufffd \ufffd &amp;bogus; &amp;'],
	['[a *b*](https://x.org/p_(q) "t")!', '<a href="https://x.org/p_(q)">a <em>b</em></a>!'],
	['[a](<https://x.org/a b>)', '<a href="https://x.org/a%20b">a</a>'.replace('<a href="https://x.org/a%20b">a</a>', '<a href="https://x.org/a%20b">a</a>')],
	['<https://x.org> <mailto:a@b.c> <b>', '<a href="https://x.org/">https://x.org</a> <a href="mailto:a@b.c">a@b.c</a> &lt;b>'],
	['see https://x.org/a?b=c. (https://y.org/d) "http://z.org"', 'see <a href="https://x.org/a?b=c">https://x.org/a?b=c</a>. (<a href="https://y.org/d">https://y.org/d</a>) "<a href="http://z.org/">http://z.org</a>"'],
	['![cat](https://x.org/cat.png)', '<a class="image" href="https://x.org/cat.png">cat</a>'],
	['[![b](https://i.org)](https://l.org)', '<a href="https://l.org/">b</a>'],
	['[a [b](https://x.org) c](https://y.org)', '[a <a href="https://x.org/">b</a> c](<a href="https://y.org/">https://y.org</a>)'],
	['[a][b] [c] [d]( ) []', '[a][b] [c] [d]() []'],
	['a<br>b<BR />c<br/ d', 'a<br></br>b<br></br>c&lt;br/ d'],
];

test('inside of blocks', () => {
	for (const [text, want] of INLINES)
		assert.equal(html(`x ${text}`), `<p>x ${want}</p>`, JSON.stringify(text));
});

// --- what it must not do -------------------------------------------------------------------------

const HOSTILE = [
	'<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '<svg/onload=alert(1)>', '<a href="javascript:alert(1)">x</a>',
	'<iframe srcdoc="<script>alert(1)</script>">', '<style>*{display:none}</style>', '<!-- --><base href=//evil>',
	'[x](javascript:alert(1))', '[x](JaVaScRiPt:alert(1))', '[x](java\nscript:alert(1))', '[x](java\tscript:alert(1))',
	'[x](&#106;avascript:alert(1))', '[x](javascript&colon;alert(1))', '[x]( javascript:alert(1))', '[x](\u0001javascript:alert(1))',
	'[x](data:text/html,<script>alert(1)</script>)', '[x](vbscript:msgbox(1))', '[x](file:///etc/passwd)', '[x](blob:https://x.org/1)',
	'[x](//evil.org)', '[x](/relative)', '[x](#hash)', '[x](?q)', '[x](https:evil)', '[x](http://)', '[x](https://[bad)',
	'<javascript:alert(1)>', '![x](javascript:alert(1))', '![x](data:image/svg+xml,<svg onload=alert(1)>)',
	'[![x](javascript:alert(1))](javascript:alert(2))', '[x](<javascript:alert(1)>)', '<https://x.org/"onclick="alert(1)>',
	'```<img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```', '| <b onclick=x> |\n|---|\n| <script> |',
	'# <script>alert(1)</script>', '> <img src=x onerror=alert(1)>', '- <svg onload=alert(1)>', '`<script>`',
	'[constructor](__proto__) &constructor; &__proto__; &toString;', '[x](https://x.org "onmouseover=alert(1)")',
];

test('nothing but text and links to the web comes of it', () => {
	for (const text of HOSTILE)
		for (const e of render(text).all()) { // an element that may not be made is refused by the document
			for (const key of Object.keys(e))
				assert.ok(['name', 'children', 'parent', 'className', 'href', 'rel', 'target', 'tabIndex', 'role', 'scope', 'start'].includes(key),
					`${key} of ${text}`);
			if (e.name === 'a') {
				assert.match(e.href, /^(?:https?:\/\/|mailto:)/, text);
				assert.equal(e.rel, 'noopener noreferrer nofollow');
				assert.equal(e.target, '_blank');
			} else {
				assert.equal(e.href, undefined);
			}
		}
});

test('where links may lead', () => {
	for (const good of ['http://x.org', 'HTTPS://X.ORG/a', 'mailto:a@b.c', ' https://x.org '])
		assert.ok(safeHref(good), good);
	for (const bad of ['javascript:1', 'data:,x', 'ftp://x', '//x', '/x', 'x', '', 'https:', 'https://', 'http:/ /x', 'java\0script:1',
		'\u00a0javascript:1', `https://x.org/${'a'.repeat(3000)}`])
		assert.equal(safeHref(bad), null, bad);
	assert.match(safeHref('https://user:pw@evil.org'), /evil/);
});

// Each of these made some reader of Markdown work for minutes.
const HEAVY = ['*a ', 'a* ', '*', '_*', '**a ', '[', ']', '[](', '![', '<', '&', '~a ~~a ', '`', '`a``b', 'https://', '\\', '> ', '>', '- ',
	'1. ', '# ', '|', '|a', '|-', '| a |\n|---|\n', '- - ', '  - a\n', '> > \n', '```\n', '* a\n\n', '\n', ' ', '\t', 'a\n', '(', '[a](http://x',
	'*![*![x](http://a)*](http://a)', '[a](<', '&#', '*a _b ~~c ', '| `', '\r', '!', '[x] ', '1.\n', '~~~\n~~~~\n'];

test('no text takes long', () => {
	for (const unit of HEAVY) {
		const text = unit.repeat(Math.ceil(200000 / unit.length));
		const start = performance.now();
		html(text);
		plainText(text);
		const ms = performance.now() - start;
		assert.ok(ms < 20000, `${JSON.stringify(unit)}: ${ms} ms`); // quadratic ones take minutes
	}
});

test('no nesting is too deep', () => {
	const depth = (e) => 1 + Math.max(0, ...e.children.filter((c) => c instanceof Element).map(depth));
	for (const text of ['> '.repeat(5000), `${'- '.repeat(5000)}x`, `${'*a **b '.repeat(2000)}${'** *'.repeat(2000)}`,
		`${'['.repeat(3000)}x${'](http://a.b)'.repeat(3000)}`, `${'*![*'.repeat(1000)}x${'*](http://a)*'.repeat(1000)}`,
		Array.from({ length: 300 }, (_, i) => `${' '.repeat(2 * i)}- a`).join('\n'), Array.from({ length: 300 }, (_, i) => `${'>'.repeat(i)} a`).join('\n')])
		assert.ok(depth(render(text)) < 60, text.slice(0, 20));
});

// --- as it grows ---------------------------------------------------------------------------------

function random(seed) {
	let s = seed;
	return (n) => {
		s = (Math.imul(s, 1664525) + 1013904223) >>> 0;
		return Math.floor(s / 2 ** 32 * n);
	};
}

const PIECES = ['# ', '- ', '* ', '1. ', '2. ', '> ', '```', '```js', '~~~', '---', '***', '| a | b |', '|---|---|', '|:-|-:|', '| 1 | 2 |', '\n', '\n',
	'\n', '\n\n', '  ', '    ', 'word', 'два слова', '**bold**', '*em', '`code`', '[l](https://x.org)', '[x] ', '\t', '\r\n', '<script>', '\\', '|', '#', '.',
	'🙂', '+ ', '_', '--', '=='];

test('however a text is cut, it comes out as if it had come at once', () => {
	const chance = random(7);
	const texts = [...BLOCKS.map((b) => b[0]), BLOCKS.map((b) => b[0]).join('\n\n'), BLOCKS.map((b) => b[0]).join('\n')];
	for (let i = 0; i < 1500; i++)
		texts.push(Array.from({ length: 2 + chance(40) }, () => PIECES[chance(PIECES.length)]).join(''));
	for (const text of texts) {
		const root = new Element('div');
		const view = new MarkdownView(root);
		for (let end = 0; end < text.length;) {
			end = Math.min(text.length, end + 1 + chance(6));
			view.set(text.slice(0, end));
		}
		assert.equal(root.children.map((c) => c.html).join(''), render(text).children.map((c) => c.html).join(''), JSON.stringify(text));
	}
});

test('what is finished is not made again', () => {
	const root = new Element('div');
	const view = new MarkdownView(root);
	let text = '# Title\n\nfirst\n\nsecond\n\n';
	view.set(text);
	const kept = root.children.slice(0, 2);
	text += '```\n';
	for (let i = 0; i < 50; i++)
		view.set(text += `line ${i}\n`);
	assert.deepEqual(root.children.slice(0, 2).map((c, i) => c === kept[i]), [true, true]);
	const code = root.querySelector('code');
	view.set(text += 'more\n');
	assert.equal(root.querySelector('code'), code);
	assert.ok(code.firstChild.data.endsWith('line 49\nmore\n') || code.firstChild.data.endsWith('line 49\nmore'));
	// Another text altogether is made from the start.
	view.set('other');
	assert.equal(root.children.map((c) => c.html).join(''), '<p>other</p>');
});

// --- aloud ---------------------------------------------------------------------------------------

test('what is read aloud has no marks', () => {
	assert.equal(plainText('# A\n\n**b** [c](https://x.org) `d`\n\n- e\n- f\n\n| g | h |\n|---|---|\n| i | j |\n\n---\n\n> k'),
		'A\nb c d\ne\nf\ng, h\ni, j\nk');
	assert.equal(plainText('a\n\n```js\nx\n```', (b) => `code ${b.lang}`), 'a\ncode js');
});

test('trees are plain objects', () => {
	assert.deepEqual(inlines('a'), ['a']);
	assert.deepEqual(blocks('a')[0].type, 'paragraph');
	assert.doesNotThrow(() => JSON.stringify(blocks(BLOCKS.map((b) => b[0]).join('\n\n'))));
});
