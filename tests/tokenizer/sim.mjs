#!/usr/bin/env node
// Writes tests/sim/words_exact.h: where npm's tiktoken cuts the simulated provider's texts, which
// go round and round.  A piece is one token, or so many as make whole characters; what was sent up
// to the end of any piece is as many tokens as its pieces say, which is checked here for three
// rounds (a piece at whose end that is not so is joined with the next).
//
// usage: node tests/tokenizer/sim.mjs FOLDER-WITH-node_modules build/tolld-sim > tests/sim/words_exact.h

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.resolve(process.argv[2], 'package.json'));
const { get_encoding } = require('tiktoken');
const texts = JSON.parse(spawnSync(process.argv[3], ['--texts'], { encoding: 'utf8' }).stdout);
const ROUNDS = 3;

function cut(encoding, name, text) {
	const all = text.repeat(ROUNDS), bytes = Buffer.from(all);
	const good = (at, tokens) => {
		const prefix = bytes.subarray(0, at).toString('utf8');
		return !prefix.includes('\ufffd') && encoding.encode(prefix, [], []).length === tokens;
	};
	const pieces = [];
	let at = 0, from = 0, tokens = 0, before = 0;
	for (const id of encoding.encode(all, [], [])) {
		at += encoding.decode_single_token_bytes(id).length;
		tokens++;
		if (good(at, tokens)) {
			pieces.push({ bytes: at - from, tokens: tokens - before });
			from = at;
			before = tokens;
		}
	}
	const round = Buffer.byteLength(text), first = [];
	for (let n = 0; n < round; n += first.at(-1).bytes)
		first.push(pieces[first.length]);
	const again = JSON.stringify(Array(ROUNDS).fill(first).flat());
	if (from !== bytes.length || again !== JSON.stringify(pieces))
		throw new Error(`${name}: it does not go round`);
	return first;
}

let out = `/* Made by tests/tokenizer/sim.mjs with npm's tiktoken.  Do not edit. */
#ifndef TOLLD_SIM_WORDS_EXACT_H
#define TOLLD_SIM_WORDS_EXACT_H

/* clang-format off */
struct exact_cut {
	unsigned char bytes, tokens; /* 0: the end */
};

static const struct exact_cut exact_cuts[2][LANG_MAX][512] = {
`;
for (const name of ['o200k_base', 'cl100k_base']) {
	const encoding = get_encoding(name);
	out += `{ /* ${name} */\n`;
	for (const [lang, text] of Object.entries(texts)) {
		let line = '\t';
		out += `[LANG_${lang.toUpperCase()}] = {\n`;
		for (const p of cut(encoding, lang, text)) {
			const word = `{${p.bytes},${p.tokens}},`;
			if (line.length + word.length > 92) {
				out += `${line}\n`;
				line = '\t';
			}
			line += word;
		}
		out += `${line}\n},\n`;
	}
	out += '},\n';
}
process.stdout.write(`${out}};
/* clang-format on */

#endif
`);
