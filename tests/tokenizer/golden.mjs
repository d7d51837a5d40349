#!/usr/bin/env node
// Writes tests/fixtures/tokenizer/golden.json: texts, and what npm's tiktoken counts of them, whole
// and, for some, of every prefix.  `make check` compares with it, and so needs no npm.
//
// usage: node tests/tokenizer/golden.mjs FOLDER-WITH-node_modules > tests/fixtures/tokenizer/golden.json

import { createRequire } from 'node:module';
import path from 'node:path';
import { random, runs, texts } from './texts.mjs';

const require = createRequire(path.resolve(process.argv[2], 'package.json'));
const { get_encoding } = require('tiktoken');
const encodings = ['o200k_base', 'cl100k_base'].map((name) => [name, get_encoding(name)]);
const utf8 = new TextDecoder();
const vocabulary = encodings[0][1].token_byte_values()
	.map((b) => utf8.decode(Uint8Array.from(b))).filter((t) => !t.includes('\ufffd'));

const rnd = random(11), out = [];
const counts = (text) => Object.fromEntries(
	encodings.map(([name, e]) => [name, e.encode(text, [], []).length]));
const prefixes = (text) => Object.fromEntries(encodings.map(([name, e]) => {
	const list = [];
	for (let at = 0; at < text.length;) {
		at += text.codePointAt(at) > 0xffff ? 2 : 1;
		list.push(e.encode(text.slice(0, at), [], []).length);
	}
	return [name, list];
}));

// Not the project's own files: they change.
for (const { name, text } of texts(vocabulary, null, 1000)) {
	const points = Array.from(text);
	for (let i = 0; i < 3; i++) {
		const at = rnd(Math.max(1, points.length - 400));
		const some = points.slice(at, at + 60 + rnd(240)).join('');
		out.push({ name, text: some, ...counts(some), ...(i === 0 && rnd(2) === 0 && { prefixes: prefixes(some) }) });
	}
}
const late = `${'中ABC'.repeat(3)}${'X'.repeat(200)}y ${' '.repeat(150)}\n${' '.repeat(120)}x` +
	`${'的'.repeat(80)}'${'\n'.repeat(300)} 'RE${'='.repeat(140)}\n//\n${'a'.repeat(260)}'s`;
out.push({ name: 'late', text: late, ...counts(late), prefixes: prefixes(late) });
for (const text of runs())
	if (rnd(10) === 0)
		out.push({ name: 'run', text, ...counts(text) });
console.log(`[\n${out.map((x) => JSON.stringify(x)).join(',\n')}\n]`);
