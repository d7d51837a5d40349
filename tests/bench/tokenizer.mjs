// What npm's tokenizer libraries take for the same text: MB/s of whole-text counting, as JSON.
// usage: node tokenizer.mjs FOLDER-WITH-node_modules tiktoken|gpt-tokenizer ENCODING FILE

import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const [dir, library, encoding, file] = process.argv.slice(2);
const require = createRequire(path.resolve(dir, 'package.json'));
const text = fs.readFileSync(file, 'utf8');
const bytes = Buffer.byteLength(text);

let count;
if (library === 'tiktoken') {
	const e = require('tiktoken').get_encoding(encoding);
	count = (s) => e.encode(s, [], []).length;
} else {
	const e = require(`gpt-tokenizer/encoding/${encoding}`);
	count = (s) => e.countTokens(s);
}
// By the processor's time, and the best round, as ours.
const now = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1e6; };
let tokens = 0, best = 1e9;
for (const end = now() + 2; now() < end;) {
	const begin = now();
	tokens = count(text);
	best = Math.min(best, now() - begin);
}
console.log(JSON.stringify({ tokens, whole_mb_s: bytes / best / 1e6 }));
