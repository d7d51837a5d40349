#!/usr/bin/env node
// Goal:   each language says all that the page says, with the same gaps to fill; amounts are neither
//         made more nor less than they are.
// Method: the dictionaries held against each other and against the sources that use them.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import test from 'node:test';
import { ago, amount, choose, credits, dictionaries, t, why } from '../../daemon/page/words.js';
import { sentenceEnd } from '../../daemon/page/talk.js';

const gaps = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((m) => m[1]).sort();

test('languages say the same things', () => {
	const names = Object.keys(dictionaries.en).sort();
	for (const [language, words] of Object.entries(dictionaries)) {
		assert.deepEqual(Object.keys(words).sort(), names, language);
		const forms = new Intl.PluralRules(language).resolvedOptions().pluralCategories;
		for (const name of names) {
			const en = dictionaries.en[name];
			if (typeof en === 'string') {
				assert.deepEqual(gaps(words[name]), gaps(en), `${language} ${name}`);
				continue;
			}
			for (const form of forms)
				assert.deepEqual(gaps(words[name][form] ?? ''), gaps(en.other), `${language} ${name} ${form}`);
		}
	}
});

test('what is used is there, and what is there is used', () => {
	const folder = new URL('../../daemon/page/', import.meta.url);
	const used = new Set();
	const made = ['theme.', 'end.', 'hint.budget_', 'hint.key_cap', 'fault.', 'state.']; // names that are put together
	for (const file of fs.readdirSync(folder)) {
		if (!/\.(?:js|html)$/.test(file))
			continue;
		const text = fs.readFileSync(new URL(file, folder), 'utf8');
		for (const m of text.matchAll(/\bt\((?:[^'"`()]*\? )?'([\w.]+)'(?: : '([\w.]+)')?|data-(?:word|label|hint)="([\w.]+)"/g))
			[m[1], m[2], m[3]].filter(Boolean).forEach((n) => used.add(n));
		for (const m of text.matchAll(/'(side\.\w+|end\.\w+)'/g))
			used.add(m[1]);
	}
	for (const name of used)
		assert.ok(Object.hasOwn(dictionaries.en, name), `${name} is said nowhere`);
	for (const name of Object.keys(dictionaries.en))
		assert.ok(used.has(name) || made.some((m) => name.startsWith(m)), `${name} is never used`);
});

test('languages are chosen as the browser lists them', () => {
	assert.equal(choose(['ru-RU', 'en']), 'ru');
	assert.equal(choose(['de', 'ru']), 'ru');
	assert.equal(choose(['EN-us', 'ru']), 'en');
	for (const none of [[], ['de'], ['__proto__'], ['constructor', 'fr'], ['']])
		assert.equal(choose(none), 'en');
});

test('amounts', () => {
	for (const [n, text] of [[0, '0'], [0.000001, '0.000001'], [0.0012, '0.0012'], [8.2, '8.2'], [204.999931, '205'], [1199.64, '1,199.64'],
		[-200, '-200'], [0.1285, '0.1285'], [1, '1'], [123456.789, '123,456.79']])
		assert.equal(amount(n), text);
	// What can be spent is never said to be more than it is.
	for (const [n, text] of [[204.999931, '204.99'], [8.2, '8.2'], [0.3, '0.3'], [0.29, '0.29'], [4.35, '4.35'], [1.1, '1.1'], [-0.000001, '-0.000001'],
		[-10.005, '-10.01'], [0.199999, '0.1999'], [1000.999, '1,000.99'], [0.07, '0.07'], [1.005, '1.005']])
		assert.equal(amount(n, true), text, `${n}`);
	assert.equal(credits(1), '1 credit');
	assert.equal(credits(0.5), '0.5 credits');
	assert.equal(t('tokens', { n: 1, count: 1 }), '1 token');
});

test('times and reasons', () => {
	const now = Date.UTC(2026, 0, 31);
	assert.equal(ago(now - 5000, now), 'now');
	assert.equal(ago(now + 5000, now), 'now');
	assert.equal(ago(now - 3 * 3600000, now), '3 hours ago');
	assert.equal(ago(now - 86400000, now), 'yesterday');
	assert.equal(ago(0, now), 'Jan 1, 1970');
	assert.equal(why({ code: 'overloaded', message: 'm' }), 'the service is busy. Try again in a moment.');
	assert.equal(why({ code: 'new', message: 'as the server says' }), 'as the server says');
	assert.equal(why({ code: 'constructor', message: 'm' }), 'm');
	assert.equal(why(null), 'null');
});

test('sentences are read aloud when they are whole', () => {
	const said = (text) => text.slice(0, sentenceEnd(text));
	for (const [text, want] of [['Hello wor', ''], ['One. Two', 'One.'], ['At 3.14 m/s', ''], ['She said “no.” And', 'She said “no.”'],
		['Para\n\nnext', 'Para\n\n'], ['你好。再', '你好。'], ['a.\n```\nx. y\n```\nb', 'a.\n'], ['See:\n\n```\nx.y. z\n', 'See:\n\n'], ['', '']])
		assert.equal(said(text), want, text);
});
