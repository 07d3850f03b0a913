/* SPDX-License-Identifier: GPL-2.0 */
/*
 * split.c - splitting a large folio, which migration does when no destination of its order is
 * free. Its name changed with every kernel; its meaning did not.
 */

#ifdef SYM_split
#define PMD_ORDER 9

struct split_call {
	u64 folio;
	u32 order;
	u32 pad;
};

BPF_HASH(split_calls, u32, struct split_call, 1024);	/* by thread */

/* The first argument is a page before v6.17 and a folio after; of a tail page only its head. */
static __always_inline u64 head_of(u64 page)
{
#ifdef HAS_page_compound_head
	u64 head = KREAD((struct page *)page, compound_head);

	return head & 1 ? head - 1 : page;
#else
	return page;
#endif
}

static __always_inline void enter_split(u64 page)
{
	u32 tid = current_tid();
	struct split_call call = {};

	call.folio = head_of(page);
	call.order = folio_order((struct folio *)call.folio);
	if (split_calls.update(&tid, &call))
		lost(PW_LOSS_FRAMES_FULL);
}

static __always_inline void count_split(s32 rc)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);
	struct pw_failure *failure;

	if (!frame || !frame->migrating)
		return;
	failure = current_failure(frame);
	if (!failure)
		return;
	if (!rc) {
		failure->split_ok++;
		return;
	}
	failure->split_failed++;
	failure->split_rc = rc;
}

static __always_inline void exit_split(s32 rc)
{
	u32 tid = current_tid();
	struct split_call *call = split_calls.lookup(&tid);
	u64 folio;

	if (!call)
		return;
	folio = call->folio;
	if (call->order == PMD_ORDER)
		witness(rc ? PW_WITNESS_THP_SPLIT_FAILED : PW_WITNESS_THP_SPLIT, 1);
	split_calls.delete(&tid);
	if (!in_longterm_pin())
		return;
	count_split(rc);
	if (rc)
		note_folio(folio, PW_SEEN_SPLIT, rc);
}

ENTRY(split)
{
	enter_split(plain(ARG(split, 0)));
	return 0;
}

EXIT(split)
{
	exit_split(RC(split));
	return 0;
}
#endif
