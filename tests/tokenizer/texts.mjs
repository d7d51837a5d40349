// Texts to count: the same ones every time, made of the vocabularies' own tokens, of what Node
// knows of the world's languages, and of this project.  Each is {name, text}, valid UTF-8.

import fs from 'node:fs';
import path from 'node:path';

// xorshift: small, and the same everywhere.
export function random(seed) {
	let s = seed >>> 0 || 1;
	return (n) => {
		s ^= s << 13; s >>>= 0;
		s ^= s >>> 17;
		s ^= s << 5; s >>>= 0;
		return s % n;
	};
}

const fromTo = (a, b) => [a, b];
// Ranges that the generators of random characters draw from.
const blocks = {
	ascii: [fromTo(0x20, 0x7e)],
	latin: [fromTo(0x20, 0x7e), fromTo(0xa1, 0x24f)],
	cyrillic: [fromTo(0x400, 0x52f)],
	greek: [fromTo(0x370, 0x3ff)],
	hebrew: [fromTo(0x590, 0x5ff)],
	arabic: [fromTo(0x600, 0x6ff)],
	indic: [fromTo(0x900, 0xdff)],
	thai: [fromTo(0xe00, 0xe7f)],
	georgian: [fromTo(0x10a0, 0x10ff), fromTo(0x1c90, 0x1cbf)],
	hangul: [fromTo(0xac00, 0xd7a3)],
	kana: [fromTo(0x3000, 0x30ff)],
	han: [fromTo(0x4e00, 0x9fff)],
	emoji: [fromTo(0x1f300, 0x1faff), fromTo(0x2600, 0x27bf), fromTo(0xfe0e, 0xfe0f),
		fromTo(0x200d, 0x200d), fromTo(0x1f3fb, 0x1f3ff), fromTo(0x1f1e6, 0x1f1ff)],
	spaces: [fromTo(0x9, 0xd), fromTo(0x20, 0x20), fromTo(0x85, 0x85), fromTo(0xa0, 0xa0),
		fromTo(0x2000, 0x200b), fromTo(0x2028, 0x202f), fromTo(0x3000, 0x3000)],
	controls: [fromTo(0, 0x1f), fromTo(0x7f, 0x9f)],
	any: [fromTo(0, 0xd7ff), fromTo(0xe000, 0x10ffff)],
	plane: [fromTo(0, 0xd7ff), fromTo(0xe000, 0xffff)],
};

function characters(rnd, ranges, n) {
	let out = '';
	for (let i = 0; i < n; i++) {
		const [from, to] = ranges[rnd(ranges.length)];
		out += String.fromCodePoint(from + rnd(to - from + 1));
	}
	return out;
}

// Marks that decide where pieces end, thrown together with letters.
const edges = ["'", "'s", "'S", "'T", "'re", "'RE", "'vE", "'ll", "'l", "'m", "'d", "'r", "'v",
	"'\u017f", '\u017f', '\u212a', ' ', '  ', '\n', '\r\n', '\t', '\u00a0', '\u3000', '\u180e',
	'a', 'b', 'A', 'B', 'AB', 'ab', 'aB', 'Ab', '\u4e2d', '\u0301', '\u01c5', '\u02b0', '\u0416',
	'\u0436', '\u0660', '\u00bd', '1', '12', '1234', '/', '//', '/\n', '.', '...', '(', '_', '-',
	'\u200d', '\ufe0f', '\ud83d\ude00', '\u0e33', '\u0903', '\u20dd', 'ſ\'s', '\u00df', '\u0130'];

function names(locale) {
	const out = [];
	for (const type of ['language', 'region', 'script', 'currency']) {
		const n = new Intl.DisplayNames(locale, { type, fallback: 'none' });
		for (let a = 65; a < 91; a++)
			for (let b = 65; b < 91; b++) {
				const two = String.fromCharCode(a, b);
				const codes = type === 'language' ? [two.toLowerCase()]
					: type === 'region' ? [two] : type === 'script' ? []
					: ['A', 'D', 'F', 'K', 'L', 'P', 'R', 'S'].map((c) => two + c);
				for (const code of codes) {
					const name = n.of(code);
					if (name !== undefined)
						out.push(name);
				}
			}
	}
	const date = new Intl.DateTimeFormat(locale, { dateStyle: 'full', timeStyle: 'long', timeZone: 'UTC' });
	for (let i = 0; i < 400; i++)
		out.push(date.format(new Date(86400000 * 37 * i + 12345678 * i)));
	return out;
}

function sentences(rnd, words, n) {
	const marks = ['. ', ', ', '; ', ': ', '! ', '?\n', '.\n\n', ' — ', ' (', ') ', ' "', '" '];
	let out = '';
	for (let i = 0; i < n; i++)
		out += words[rnd(words.length)] + (rnd(7) === 0 ? marks[rnd(marks.length)] : ' ');
	return out;
}

// Tokens of a script, put together to words and lines: text that no vocabulary has seen whole.
function fromTokens(rnd, tokens, n) {
	let out = '';
	for (let i = 0; i < n; i++)
		out += tokens[rnd(tokens.length)] + (rnd(40) === 0 ? '\n' : '');
	return out;
}

function project(root, match) {
	const out = [];
	const walk = (dir) => {
		for (const e of fs.readdirSync(dir, { withFileTypes: true })
			.sort((a, b) => (a.name < b.name ? -1 : 1))) {
			const p = path.join(dir, e.name);
			if (e.isDirectory() && !/^(\.git|build.*|node_modules)$/.test(e.name))
				walk(p);
			else if (e.isFile() && match.test(e.name))
				out.push(fs.readFileSync(p, 'utf8'));
		}
	};
	walk(root);
	return out.join('\n');
}

const scripts = { english: /^ ?[A-Za-z]+$/u, russian: /^ ?\p{Script=Cyrillic}+$/u,
	chinese: /^\p{Script=Han}+$/u, japanese: /^[\p{Script=Hiragana}\p{Script=Katakana}]+$/u,
	korean: /^ ?\p{Script=Hangul}+$/u, arabic: /^ ?\p{Script=Arabic}+$/u,
	hindi: /^ ?\p{Script=Devanagari}+$/u, thai: /^\p{Script=Thai}+$/u,
	digits: /^\p{N}+$/u, punctuation: /^ ?[\p{P}\p{S}]+[\r\n]*$/u, blanks: /^\s+$/u,
	every: /^[^\ufffd]*$/u };

// vocabulary: texts of tokens.  root: of the project, or null.  size: about how many tokens each of the large ones has.
export function* texts(vocabulary, root, size) {
	const rnd = random(20240607);

	if (root !== null) {
		yield { name: 'project code', text: project(root, /\.(c|h|py|mjs|js)$|^GNUmakefile$/) };
		yield { name: 'project prose', text: project(root, /\.(md|conf)$/) };
	}
	for (const locale of ['en', 'ru', 'zh', 'ja', 'ko', 'de', 'fr', 'ar', 'hi', 'th', 'el', 'he',
		'ka', 'vi', 'tr'])
		yield { name: `names ${locale}`, text: sentences(rnd, names(locale), size >> 3) };
	for (const [name, re] of Object.entries(scripts)) {
		const some = vocabulary.filter((t) => re.test(t));
		yield { name: `tokens ${name}`, text: fromTokens(rnd, some, size) };
	}
	for (const [name, ranges] of Object.entries(blocks))
		yield { name: `random ${name}`, text: characters(rnd, ranges, size >> 2) };
	let mixed = '';
	for (let i = 0; i < size; i++)
		mixed += edges[rnd(edges.length)];
	yield { name: 'edges', text: mixed };
	let json = '', hex = '', base64 = '', emoji = '';
	for (let i = 0; i < size >> 4; i++) {
		json += JSON.stringify({ id: rnd(1e9), ok: rnd(2) === 1, text: vocabulary[rnd(1e5)],
			list: [rnd(10), rnd(1e6) / 1000, null] }, null, rnd(2) * 2) + '\n';
		hex += rnd(0x7fffffff).toString(16);
		base64 += Buffer.from([rnd(256), rnd(256), rnd(256), rnd(256), rnd(256)])
			.toString('base64').replace('=', '');
		emoji += ['😀', '👍🏽', '❤️', '👨‍👩‍👧‍👦', '🇫🇷', '🏳️‍🌈', ' ', '!', '\n'][rnd(9)];
	}
	yield { name: 'json', text: json };
	yield { name: 'hex', text: hex };
	yield { name: 'base64', text: base64 };
	yield { name: 'emoji', text: emoji };
}

// Runs of one thing: each makes one piece, or one after another.
export function* runs(rnd = random(7)) {
	for (const unit of ['a', 'A', '1', ' ', '\n', '\t', '\r\n', ' \n', '=', '-', '_', '.', '/', "'",
		'ab', 'aA', '中', '的', 'ж', '😀', '\u0301', '\u00a0', '"', '//\n', ' a', 'ab ', '0 '])
		for (const n of [1, 2, 3, 4, 15, 16, 17, 31, 48, 63, 64, 90, 95, 96, 97, 98, 127, 128, 129,
			130, 191, 192, 255, 256, 257, 300, 600, 1100, 1500])
			for (const end of ['', 'x', ' x', '\n', '7', '.'])
				if (end === '' || rnd(3) === 0)
					yield unit.repeat(n) + end;
	const letters = 'etaoinshrdlu';
	for (const n of [90, 97, 130, 250, 257, 400, 1000]) {
		let s = '';
		for (let i = 0; i < n; i++)
			s += letters[rnd(letters.length)];
		yield s;
		yield `中${s.toUpperCase()} and`;
		yield `中${s.toUpperCase()}and`;
		yield `${s}\n${' '.repeat(n)}${s}`;
		yield `${'\n'.repeat(n)}${' '.repeat(n)}\n${' '.repeat(n)}${s}'s${s}'r${s}'re`;
	}
}
