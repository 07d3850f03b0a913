/* SPDX-License-Identifier: GPL-2.0 */
/*
 * gup.c - the pin itself: __gup_longterm_locked with FOLL_LONGTERM, and the operation around it.
 *
 * An operation is what its caller sees as one: a VFIO map, else one GUP call. Its frame opens on
 * entry and closes on return; one record leaves for an operation that failed.
 */

static __always_inline struct pw_frame *open_frame(u32 source)
{
	u32 tid = current_tid();
	struct pw_frame frame = {};

	frame.start_ns = bpf_ktime_get_ns();
	frame.source = source;
	if (frames.update(&tid, &frame)) {
		lost(PW_LOSS_FRAMES_FULL);
		return 0;
	}
	open_total(source);
	return frames.lookup(&tid);
}

/* Slot n holds (2^(n-1), 2^n] ns, so that 2^n ns is an exact Prometheus "le" edge. */
static __always_inline u32 duration_slot(u64 ns)
{
	u32 slot = 0, shift;
	u64 rest = ns ? ns - 1 : 0;

#pragma unroll
	for (shift = 32; shift; shift >>= 1) {
		if (rest >> shift) {
			rest >>= shift;
			slot += shift;
		}
	}
	slot += rest;
	return slot < PW_DURATION_SLOTS ? slot : PW_DURATION_SLOTS - 1;
}

static __always_inline void count_duration(struct pw_frame *frame, u64 ns, bool failed)
{
	u32 key = frame->source * PW_RESULT_COUNT + (failed ? PW_RESULT_FAILED : PW_RESULT_OK);
	u32 slot = duration_slot(ns);
	struct pw_duration *duration = durations.lookup(&key);

	if (!duration || slot >= PW_DURATION_SLOTS)
		return;
	__sync_fetch_and_add(&duration->sum_ns, ns);
	__sync_fetch_and_add(&duration->slots[slot], 1);
}

static __always_inline void report_failure(struct pw_frame *frame, s64 rc)
{
	struct pw_pin_record *record = events.ringbuf_reserve(sizeof(*record));
	u32 tid = current_tid(), first = 0;
	struct pw_failure *failure = failures.lookup(&tid);

	if (!record) {
		lost(PW_LOSS_RING_FULL);
		return;
	}
	if (!failure)
		failure = no_failure.lookup(&first);
	fill_head(&record->head, PW_RECORD_PIN_FAILED);
	record->rc = rc;
	fill_memlock(&record->memlock);
	bpf_probe_read_kernel(&record->frame, sizeof(record->frame), frame);
	bpf_probe_read_kernel(&record->failure, sizeof(record->failure), failure);
	fill_cmdline(&record->cmdline);
	events.ringbuf_submit(record, 0);
}

static __always_inline void close_frame(struct pw_frame *frame, s64 rc)
{
	u32 tid = current_tid();
	bool failed = rc < 0;
	struct pw_total_key key = total_key(frame->source);
	struct pw_total *total = totals.lookup(&key);

	count_duration(frame, bpf_ktime_get_ns() - frame->start_ns, failed);
	if (total) {
		__sync_fetch_and_add(&total->pins, 1);
		__sync_fetch_and_add(&total->failures, failed);
		__sync_fetch_and_add(&total->pages, failed ? 0 : frame->pinned);
		__sync_fetch_and_add(&total->migrated, frame->migrated);
		__sync_fetch_and_add(&total->migrate_failed, frame->migrate_failed);
	}
	if (failed)
		report_failure(frame, rc);
	if (frame->failing)
		failures.delete(&tid);
	frames.delete(&tid);
}

#ifdef SYM_gup_longterm
static __always_inline void enter_gup_longterm(u64 start, u64 nr_pages)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);

	if (frame && frame->source == PW_SOURCE_OTHER) {
		lost(PW_LOSS_FRAME_STALE);	/* its return was not seen */
		frame = 0;
	}
	if (!frame) {
		frame = open_frame(PW_SOURCE_OTHER);
		if (!frame)
			return;
		frame->vaddr = start;
		frame->length = nr_pages << PAGE_SHIFT;
	}
	frame->gup_open = 1;
	frame->gup_pages = nr_pages;
	frame->gup_rounds = 0;
	frame->gup_calls++;
}

static __always_inline void exit_gup_longterm(s64 rc)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);
	u64 acquired;

	if (!frame || !frame->gup_open)
		return;
	frame->gup_open = 0;
	/* A round that had to migrate pinned all pages first and dropped them again. */
	acquired = frame->gup_pages * frame->gup_rounds;
	if (rc > 0) {
		acquired += rc;
		frame->pinned += rc;
	} else {
		frame->gup_rc = rc;
	}
	frame->foll_pinned += acquired;
	witness(PW_WITNESS_FOLL_PIN_ACQUIRED, acquired);
	if (frame->source == PW_SOURCE_OTHER)
		close_frame(frame, rc);
}

/* gup_flags is the last argument on every kernel; there were 7 of them before v6.5. The loader
 * numbers it, because a macro's argument is not calculated. */
ENTRY(gup_longterm)
{
	if (ARG(gup_longterm, GUP_FLAGS_ARG) & FOLL_LONGTERM)
		enter_gup_longterm(ARG(gup_longterm, 1), ARG(gup_longterm, 2));
	return 0;
}

EXIT(gup_longterm)
{
	/* Every slow get_user_pages returns here; most are none of ours. */
	if (ARGS_ON_EXIT(gup_longterm) &&
	    !(ARG(gup_longterm, GUP_FLAGS_ARG) & FOLL_LONGTERM))
		return 0;
	exit_gup_longterm(RC(gup_longterm));
	return 0;
}
#endif
