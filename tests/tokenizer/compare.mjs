#!/usr/bin/env node
// Goal:   our counts are those of OpenAI's own tokenizer library (npm's tiktoken).
// Method: count more than a million tokens of many kinds of text with both, each kind in pieces
//         that begin and end anywhere; and every prefix of samples of 10 KB.
//
// usage: BUILD=build node tests/tokenizer/compare.mjs FOLDER-WITH-node_modules

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { random, runs, texts } from './texts.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const build = path.resolve(process.env.BUILD ?? 'build');
const require = createRequire(path.resolve(process.argv[2], 'package.json'));
const { get_encoding } = require('tiktoken');
const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'tolld-compare-'));
const utf8 = new TextDecoder();
const encoder = new TextEncoder();
// How many characters of a sample's prefixes are looked at.
const PREFIX_BYTES = Number(process.env.PREFIX_BYTES ?? 10240);
const SIZE = Number(process.env.SIZE ?? 10000);
let wrong = 0;

function tollctl(args) {
	const r = spawnSync(path.join(build, 'tollctl'), args,
		{ encoding: 'utf8', maxBuffer: 1 << 28 });
	if (r.status !== 0)
		throw new Error(`tollctl ${args[0]}: ${r.stderr}`);
	return r.stdout;
}

// What tollctl says of many texts at once.
function ours(encoding, samples) {
	const files = samples.map((s, i) => path.join(dir, String(i)));
	const counts = [];
	for (let at = 0; at < files.length; at += 1000) {
		const some = files.slice(at, at + 1000);
		some.forEach((f, i) => fs.writeFileSync(f, samples[at + i]));
		const said = JSON.parse(tollctl(['tokens', '--json', '--tokenizer', encoding, ...some]));
		counts.push(...(Array.isArray(said) ? said : [said]).map((x) => x.tokens));
	}
	return counts;
}

function complain(encoding, name, text, expected, got) {
	wrong++;
	if (wrong <= 20)
		console.log(`  ${encoding} ${name}: tiktoken ${expected}, tolld ${got}: ` +
			JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text));
}

// Pieces of random length: mostly short, some thousand characters.
function* cut(rnd, text) {
	const points = Array.from(text);
	for (let at = 0; at < points.length;) {
		const n = rnd(4) === 0 ? 1 + rnd(3000) : 1 + rnd(200);
		yield points.slice(at, at + n).join('');
		at += n;
	}
}

function compareTexts(encoding, reference) {
	const rnd = random(99), samples = [], names = [];
	const vocabulary = reference.token_byte_values()
		.map((b) => utf8.decode(Uint8Array.from(b))).filter((t) => !t.includes('\ufffd'));
	for (const { name, text } of texts(vocabulary, root, SIZE))
		for (const piece of cut(rnd, text)) {
			samples.push(piece);
			names.push(name);
		}
	for (const text of runs()) {
		samples.push(text);
		names.push('run');
	}
	const counts = ours(encoding, samples);
	let tokens = 0;
	samples.forEach((text, i) => {
		const expected = reference.encode(text, [], []).length;
		tokens += expected;
		if (expected !== counts[i])
			complain(encoding, names[i], text, expected, counts[i]);
	});
	console.log(`${encoding}: ${tokens} tokens in ${samples.length} texts`);
}

// Every character there is, in nine places, some hundreds to a text.
function compareCharacters(encoding, reference) {
	const samples = [];
	for (const around of ['@', ' @', 'a@', 'A@b', '@a', '@A', '1@', '.@.', "x'@"])
		for (let from = 0; from < 0x110000; from += 1024) {
			let text = '';
			for (let c = from; c < from + 1024; c++)
				if (c < 0xd800 || c > 0xdfff)
					text += `${around.replace('@', String.fromCodePoint(c))}|`;
			samples.push(text);
		}
	const counts = ours(encoding, samples);
	samples.forEach((text, i) => {
		const expected = reference.encode(text, [], []).length;
		if (expected !== counts[i])
			complain(encoding, 'characters', text, expected, counts[i]);
	});
	console.log(`${encoding}: every character in nine places`);
}

function comparePrefixes(encoding, reference) {
	const vocabulary = reference.token_byte_values()
		.map((b) => utf8.decode(Uint8Array.from(b))).filter((t) => !t.includes('\ufffd'));
	// Shares of PREFIX_BYTES.
	const wanted = { 'project prose': 1, 'names ru': 1, 'project code': 0.5, 'tokens chinese': 0.5,
		'tokens every': 0.2, edges: 0.2, emoji: 0.2, 'random spaces': 0.2, 'random plane': 0.1,
		json: 0.2, 'names th': 0.1 };
	const samples = [];
	for (const { name, text } of texts(vocabulary, root, 2500)) {
		if (wanted[name] === undefined)
			continue;
		const bytes = encoder.encode(text).subarray(0, PREFIX_BYTES * wanted[name]);
		samples.push([name, utf8.decode(bytes).replace(/\ufffd+$/, '')]);
	}
	// Long pieces, and what decides them late.
	samples.push(['long', `${'中ABC'.repeat(3)}${'X'.repeat(200)}y ${' '.repeat(150)}\n${' '.repeat(
		120)}x${'的'.repeat(80)}'${'\n'.repeat(300)} 'RE${'='.repeat(140)}\n//\n${'a'.repeat(260)}'s`]);
	let prefixes = 0;
	for (const [name, text] of samples) {
		const file = path.join(dir, 'prefix');
		fs.writeFileSync(file, text);
		const lines = tollctl(['tokens', '--prefixes', '--tokenizer', encoding, file])
			.trim().split('\n');
		let at = 0;
		for (const line of lines) {
			at += text.codePointAt(at) > 0xffff ? 2 : 1;
			const prefix = text.slice(0, at);
			const got = Number(line.split(' ')[1]);
			const expected = reference.encode(prefix, [], []).length;
			prefixes++;
			if (expected !== got)
				complain(encoding, `prefix of ${name}`, prefix.slice(-100), expected, got);
		}
		if (at !== text.length)
			throw new Error(`${name}: prefixes end at ${at} of ${text.length}`);
	}
	console.log(`${encoding}: ${prefixes} prefixes of ${samples.length} texts`);
}

try {
	for (const encoding of ['o200k_base', 'cl100k_base']) {
		const reference = get_encoding(encoding);
		compareTexts(encoding, reference);
		compareCharacters(encoding, reference);
		comparePrefixes(encoding, reference);
		reference.free();
	}
} finally {
	fs.rmSync(dir, { recursive: true });
}
console.log(wrong === 0 ? 'no difference' : `${wrong} differ`);
process.exit(wrong === 0 ? 0 : 1);
