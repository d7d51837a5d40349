/*
 * Writing down what is told, and the storm's random numbers.  Every process.
 */
#include "tests/storm/told.h"

#include <stdarg.h>
#include <stdio.h>

const struct price storm_price = {1500000, 500000, 3000000, 3000000, 1500000, 700};
struct told *told;

uint64_t
storm_mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint32_t
storm_draw(uint64_t *state, uint32_t n)
{
	*state += UINT64_C(0x9e3779b97f4a7c15);
	return (uint32_t)(storm_mix(*state) >> 32) % n;
}

void
storm_fail(const char *format, ...)
{
	uint32_t none = 0;
	va_list args;

	if (!atomic_compare_exchange_strong(&told->failed, &none, 1))
		return;
	va_start(args, format);
	(void)vsnprintf(told->difference, sizeof told->difference, format, args);
	va_end(args);
}

uint64_t
storm_ops(void)
{
	uint64_t n = 0;

	for (int i = 0; i < OP_KINDS; i++)
		if (i != OP_METER && i != OP_SHORT && i != OP_ONCE_WAITED)
			n += atomic_load(&told->ops[i]);
	return n;
}

void
told_killed(enum kill_kind kind)
{
	atomic_fetch_add(&told->kills[kind], 1);
}

void
told_count(enum op_kind kind)
{
	atomic_fetch_add_explicit(&told->ops[kind], 1, memory_order_relaxed);
}
