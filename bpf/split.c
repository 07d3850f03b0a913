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

BPF_PERCPU_ARRAY(split_errors, u64, PW_SPLIT_ERROR_COUNT);

static __always_inline u32 split_error(s32 rc)
{
	switch (rc) {
	case -EAGAIN:
		return PW_SPLIT_ERROR_EAGAIN;
	case -EBUSY:
		return PW_SPLIT_ERROR_EBUSY;
	case -EINVAL:
		return PW_SPLIT_ERROR_EINVAL;
	case -ENOMEM:
		return PW_SPLIT_ERROR_ENOMEM;
	}
	return PW_SPLIT_ERROR_OTHER;
}

static __always_inline void count_split_error(s32 rc)
{
	u32 error = split_error(rc);
	u64 *count = split_errors.lookup(&error);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* The first argument is a page before v6.17 and a folio after. */
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
	if (rc)
		count_split_error(rc);
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
