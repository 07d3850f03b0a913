/* SPDX-License-Identifier: GPL-2.0 */
/*
 * migrate.c - migrate_pages as a whole, and each folio that it gave back.
 *
 * Nothing here runs for a page that moves.
 */

static __always_inline struct pw_frame *migrating_frame(u32 reason)
{
	u32 tid = current_tid();

	return reason == KERNEL_MR_LONGTERM_PIN ? frames.lookup(&tid) : 0;
}

BPF_PERCPU_ARRAY(migrations, struct pw_migrations, PW_MIGRATE_REASONS);

static __always_inline void count_migration(u32 reason, u64 succeeded, u64 failed)
{
	struct pw_migrations *count = migrations.lookup(&reason);

	if (!count)
		return;
	__sync_fetch_and_add(&count->succeeded, succeeded);
	__sync_fetch_and_add(&count->failed, failed);
}

/* Who migrates for reasons that have no hook of their own (holders.c). */
static __always_inline u32 migrating_holder(u32 reason)
{
	switch (reason) {
	case KERNEL_MR_NUMA_MISPLACED:
		return PW_HOLDER_NUMA_BALANCING;
	case KERNEL_MR_SYSCALL:
	case KERNEL_MR_MEMPOLICY_MBIND:
		return PW_HOLDER_MOVE_PAGES;
	}
	return PW_HOLDER_NONE;
}

RAW_TP(migrate_start)	/* mode, reason */
{
	struct pw_frame *frame = migrating_frame(ctx->args[1]);
	u32 holder = migrating_holder(ctx->args[1]);

	if (holder == PW_HOLDER_NUMA_BALANCING)
		open_window(PW_HOLDER_NUMA_BALANCING);
	else if (holder == PW_HOLDER_MOVE_PAGES)
		open_window(PW_HOLDER_MOVE_PAGES);

	if (frame) {
		frame->rounds++;
		frame->gup_rounds++;
		frame->migrating = 1;
	}
	return 0;
}

/* succeeded, failed, thp_succeeded, thp_failed, thp_split, [large_folio_split from v6.7,] mode,
 * reason: the ends of the list are fixed. */
RAW_TP(migrate_end)
{
	u64 succeeded = ctx->args[0], failed = ctx->args[1];
	u64 thp_succeeded = ctx->args[2], thp_failed = ctx->args[3], thp_split = ctx->args[4];
	u32 reason = ctx->args[NARGS_migrate_end - 1], holder = migrating_holder(reason);
	struct pw_frame *frame = migrating_frame(reason);

	if (holder == PW_HOLDER_NUMA_BALANCING)
		close_window(PW_HOLDER_NUMA_BALANCING);
	else if (holder == PW_HOLDER_MOVE_PAGES)
		close_window(PW_HOLDER_MOVE_PAGES);
	count_migration(reason, succeeded, failed);
	witness(PW_WITNESS_THP_MIGRATE_SUCCESS, thp_succeeded);
	witness(PW_WITNESS_THP_MIGRATE_FAIL, thp_failed);
	witness(PW_WITNESS_THP_MIGRATE_SPLIT, thp_split);
	if (frame) {
		frame->migrated += succeeded;
		frame->migrate_failed += failed;
		frame->thp_migrated += thp_succeeded;
		frame->thp_failed += thp_failed;
		frame->thp_split += thp_split;
		frame->migrating = 0;
	}
	return 0;
}

#ifdef SYM_folio_undo
/* migrate_folio_undo_src(src, page_was_mapped, anon_vma, locked, ret), v6.3 and later: called
 * for folios that are given back, with the folio still locked and unmapped. */
static __always_inline void enter_folio_undo(u64 src, bool locked)
{
	struct pw_folio *entry;

	if (!in_longterm_pin())
		return;
	entry = note_folio(src, locked ? PW_SEEN_MOVE : PW_SEEN_LOCK, 0);
	if (entry)
		read_folio(entry);
}

ENTRY(folio_undo)
{
	enter_folio_undo(plain(ARG(folio_undo, 0)), ARG(folio_undo, 3) & 1);
	return 0;
}
#endif

#ifdef SYM_alloc_failed
/* warn_alloc(gfp_mask, nodemask, fmt, order): where every allocation that failed ends, silent or
 * not; so the destinations that were found cost nothing. */
ENTRY(alloc_failed)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);
	struct pw_failure *failure;

	if (!frame || in_nested_reclaim())
		return 0;
	failure = current_failure(frame);
	if (!failure)
		return 0;
	if (!frame->migrating) {
		failure->alloc_failed++;
		return 0;
	}
	failure->dst_gfp = (u32)ARG(alloc_failed, 0);
	failure->dst_order = (u32)ARG(alloc_failed, 3);
	failure->dst_failed++;
	return 0;
}
#endif

#ifdef SYM_putback
/* A folio that moved after it was reported has been freed: no reference, no mapping. */
static __always_inline u32 is_left(struct pw_folio *entry)
{
	struct folio *folio = (struct folio *)entry->folio;

	return (s32)KREAD(folio, _refcount) > 0 && (u64)KREAD(folio, mapping) == entry->mapping;
}

/*
 * putback_movable_pages(list): what stays when the pin gives up. Walking the list to find which of
 * our folios are on it is more than the verifier follows; their state tells as well. When none is,
 * the first of the list stands for the cause: folios that were tried and failed come before those
 * that were not. Before v6.3 that is all there is, because nothing else is called for a failed
 * folio and not for a moved one; its references are those of microseconds later.
 */
static __always_inline void enter_putback(u64 head)
{
	u32 tid = current_tid(), left = 0, n;
	u64 first;
	struct pw_frame *frame;
	struct pw_failure *failure;

	if (!in_longterm_pin())
		return;
	frame = frames.lookup(&tid);
	first = KREAD_AT(u64, head);
	if (!frame || !frame->gup_open || first == head)
		return;
	failure = current_failure(frame);
	if (!failure)
		return;
#pragma unroll
	for (n = 0; n < PW_MAX_FOLIOS; n++) {
		if (n < failure->nr_folios)
			left += failure->folios[n].left = is_left(&failure->folios[n]);
	}
	if (!left)
		note_folio(first - FOLIO_LRU_OFFSET, PW_SEEN_LEFT, 0);
#pragma clang loop unroll(disable)
	for (n = 0; n < PW_MAX_FOLIOS; n++) {
		struct pw_folio *entry = &failure->folios[n];

		if (entry->seen == PW_SEEN_LEFT)
			entry->left = 1;
		if (entry->left && !entry->is_read)
			read_folio(entry);
	}
}

ENTRY(putback)
{
	enter_putback(plain(ARG(putback, 0)));
	return 0;
}
#endif
