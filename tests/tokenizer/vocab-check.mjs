#!/usr/bin/env node
// Goal:   the lists in etc/tokenizers are OpenAI's, and the rules in daemon/tokenizer_split.c are
//         made after the patterns that belong to them.
// Method: compare with npm's gpt-tokenizer (the files) and tiktoken (ranks, patterns), and with the
//         checksums that tiktoken itself demands.
//
// usage: BUILD=build node tests/tokenizer/vocab-check.mjs FOLDER-WITH-node_modules

import assert from 'node:assert';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';

const modules = path.resolve(process.argv[2], 'node_modules');
const build = path.resolve(process.env.BUILD ?? 'build');
const wanted = {
	o200k_base: {
		sha256: '446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d',
		tokens: 199998,
		pattern: "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" +
			"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+" +
			"[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}|" +
			' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
	},
	cl100k_base: {
		sha256: '223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7',
		tokens: 100256,
		pattern: "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|" +
			' ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
	},
};

function run(command, args) {
	const r = spawnSync(command, args, { maxBuffer: 1 << 26 });
	assert.strictEqual(r.status, 0, `${command}: ${r.stderr}`);
	return r.stdout;
}

for (const [name, w] of Object.entries(wanted)) {
	const list = run('xz', ['-dc', `etc/tokenizers/${name}.tiktoken.xz`]);
	assert.strictEqual(createHash('sha256').update(list).digest('hex'), w.sha256, `${name}: checksum`);
	assert(list.equals(fs.readFileSync(path.join(modules, 'gpt-tokenizer/data', `${name}.tiktoken`))),
		`${name}: not gpt-tokenizer's`);
	const reference = JSON.parse(
		fs.readFileSync(path.join(modules, 'tiktoken/encoders', `${name}.json`), 'utf8'));
	assert.strictEqual(reference.pat_str, w.pattern, `${name}: tiktoken's pattern is another`);
	// "! FIRST-RANK token token ..." a line.
	const ranks = new Map();
	for (const line of reference.bpe_ranks.split('\n').filter((x) => x !== '')) {
		const [, first, ...tokens] = line.split(' ');
		tokens.forEach((t, i) => ranks.set(t, Number(first) + i));
	}
	const lines = list.toString('latin1').trim().split('\n');
	assert.strictEqual(lines.length, w.tokens);
	assert.strictEqual(ranks.size, w.tokens, `${name}: tiktoken has another number of tokens`);
	for (const line of lines) {
		const [token, rank] = line.split(' ');
		assert.strictEqual(ranks.get(token), Number(rank), `${name}: rank of ${token}`);
	}
	// And the table is that list's.
	const out = path.join(build, 'tokenizers', `${name}.check`);
	fs.writeFileSync(`${out}.tiktoken`, list);
	run(path.join(build, 'tollctl'), ['tokenizer', 'build', `${out}.tiktoken`, '--split', name, '-o', out]);
	// The name in a table's header is that of its file.
	const table = fs.readFileSync(out), installed = fs.readFileSync(path.join(build, 'tokenizers', `${name}.tok`));
	assert(table.equals(installed), `${name}: the table is another when built again`);
	fs.unlinkSync(out);
	fs.unlinkSync(`${out}.tiktoken`);
	console.log(`${name}: ${w.tokens} tokens, as in gpt-tokenizer and in tiktoken`);
}
