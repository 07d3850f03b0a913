/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lru_batches.c - is the page that stood in the way in a CPU's batch? Such batches (mm/swap.c,
 * mm/mlock.c) hold pages that are to be put on an LRU list, or moved on it, each with one more
 * reference until the batch is full or drained.
 *
 * A program of its own beside the one in migrate.c: together they are more than the verifier follows.
 */

#if defined(SYM_lru_search) && defined(NR_LRU_BATCHES)
struct lru_batch {	/* struct folio_batch, struct pagevec before v6.4 */
	u8 nr;
	u8 rest[7];
	u64 entries[LRU_BATCH_SIZE];
};

BPF_ARRAY(lru_batches, u64, NR_LRU_BATCHES);	/* per-CPU symbols; user space writes them */
BPF_PERCPU_ARRAY(lru_batch_copy, struct lru_batch, 1);

/* 1 when x is 0, without a branch: the verifier would follow both sides for each entry. The empty
 * asm keeps the compiler from making a comparison of it. */
static __always_inline u32 is_zero(u64 x)
{
	u64 minus = -x;

	asm volatile("" : "+r"(minus));
	return ~((x | minus) >> 63) & 1;
}

/* How often: mlocked and unlocked again and again, a page is in it each time, with a reference each.
 * One entry after the other: LLVM 19 (Debian 13) would load all of them first, which is more than the
 * stack of a BPF program (512 bytes) and whatever else is on it hold. */
static __always_inline u32 times_in_batch(struct lru_batch *batch, u64 folio)
{
	u32 hits = 0, i;

#pragma unroll
	for (i = 0; i < LRU_BATCH_SIZE; i++) {
		/* the low bits of an entry of an mlock batch are flags (mm/mlock.c) */
		hits |= is_zero((batch->entries[i] ^ folio) & ~3ULL) << i;
		asm volatile("" : "+r"(hits) : : "memory");
	}
	return __builtin_popcount(hits & ((1U << (batch->nr & 31)) - 1));
}

static __always_inline void search_lru_batches(struct pw_failure *failure, u64 folio)
{
	u32 cpu, number, times, first = 0;
	struct lru_batch *copy = lru_batch_copy.lookup(&first);

	if (!copy)
		return;
#pragma clang loop unroll(disable)
	for (cpu = 0; cpu < LRU_BATCH_CPUS; cpu++) {
#pragma clang loop unroll(disable)
		for (number = 0; number < NR_LRU_BATCHES; number++) {
			u32 key = number;
			u64 *symbol = lru_batches.lookup(&key);

			if (!symbol)
				return;
			bpf_probe_read_kernel(copy, sizeof(*copy),
					      (void *)per_cpu_address(*symbol, cpu));
			times = times_in_batch(copy, folio);
			if (!times)
				continue;
			failure->batch_folio = folio;
			failure->lru_batch = number + 1;
			failure->lru_batch_cpu = cpu;
			failure->lru_batch_refs = times;
			return;
		}
	}
}

/* putback_movable_pages(list): folios that failed are in front. Afterwards it would be too late,
 * because that puts them into a batch itself. */
ENTRY(lru_search)
{
	u64 head = ARG(lru_search, 0), first = KREAD_AT(u64, head);
	u32 tid = current_tid();
	struct pw_frame *frame;
	struct pw_failure *failure;

	if (!in_longterm_pin())
		return 0;
	frame = frames.lookup(&tid);
	if (!frame || !frame->gup_open || first == head)
		return 0;
	failure = current_failure(frame);
	if (failure)
		search_lru_batches(failure, first - FOLIO_LRU_OFFSET);
	return 0;
}
#endif
