/* SPDX-License-Identifier: GPL-2.0 */
/*
 * gup.c - the pin itself: __gup_longterm_locked with FOLL_LONGTERM or memfd_pin_folios, and the
 * operation around it.
 *
 * An operation is what its consumer's caller sees as one: a VFIO map, an io_uring registration,
 * else one GUP call. Its frame opens on entry and closes on return; one record leaves for an
 * operation that failed or was slow.
 */

static __always_inline struct pw_frame *open_frame(u32 source, u64 site)
{
	u32 tid = current_tid();
	struct task_struct *task = bpf_get_current_task_btf();
	struct pw_window *newest = window_of(PW_HOLDER_PIN), *before = window_of(PW_HOLDER_PIN_BEFORE);
	struct pw_frame frame = {};

	frame.start_ns = bpf_ktime_get_ns();
	frame.task_start_ns = task_start_ns(task);
	frame.tgid = bpf_get_current_pid_tgid() >> 32;
	frame.source = source;
	frame.site = site;
	if (frames.update(&tid, &frame)) {
		lost(PW_LOSS_FRAMES_FULL);
		return 0;
	}
	if (newest && before && newest->tid != tid)
		bpf_probe_read_kernel(before, sizeof(*before), newest);
	open_window(PW_HOLDER_PIN);
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

static __always_inline void report(void *ctx, struct pw_frame *frame, u32 kind, s64 rc)
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
	record->rc = rc;
	fill_memlock(&record->memlock);
	bpf_probe_read_kernel(&record->frame, sizeof(record->frame), frame);
	bpf_probe_read_kernel(&record->failure, sizeof(record->failure), failure);
	copy_windows(record->windows);
	/* The time is read after the windows: the newest of a kind overwrites the one before, which
	 * may have been in the way, and must not seem to come too late. */
	fill_head(&record->head, kind);
	__builtin_memset(&record->stack, 0, sizeof(record->stack));
	if (!frame->site)
		bpf_get_stack(ctx, &record->stack, sizeof(record->stack), 0);
	fill_cmdline(&record->cmdline);
	events.ringbuf_submit(record, 0);
}

static __always_inline bool is_slow(struct pw_frame *frame, u64 ns)
{
	u32 first = 0;
	struct pw_limits *limit = limits.lookup(&first);

	return frame->in_place ||
	       (limit && (ns > limit->slow_ns || frame->max_loops > limit->slow_loops));
}

static __always_inline void close_frame(void *ctx, struct pw_frame *frame, s64 rc)
{
	u32 tid = current_tid();
	bool failed = rc < 0;
	u64 ns = bpf_ktime_get_ns() - frame->start_ns;
	struct pw_total *total = total_of(frame);

	count_duration(frame, ns, failed);
	if (total) {
		__sync_fetch_and_add(&total->pins, 1);
		__sync_fetch_and_add(&total->failures, failed);
		if (!failed && !frame->counted)
			__sync_fetch_and_add(&total->pages, frame->span ? frame->span : frame->pinned);
		__sync_fetch_and_add(&total->migrated, frame->migrated);
		__sync_fetch_and_add(&total->migrate_failed, frame->migrate_failed);
	}
	if (failed)
		report(ctx, frame, PW_RECORD_PIN_FAILED, rc);
	else if (is_slow(frame, ns))
		report(ctx, frame, PW_RECORD_PIN_SLOW, rc);
	if (frame->failing)
		failures.delete(&tid);
	frames.delete(&tid);
	close_window(PW_HOLDER_PIN);
}

/* Its return was not seen: there was no slot for the return probe, or our program was running on that
 * CPU. What it found is not of what comes. */
static __always_inline void discard_frame(struct pw_frame *frame)
{
	u32 tid = current_tid();

	lost(PW_LOSS_FRAME_STALE);
	if (frame->failing)
		failures.delete(&tid);
	frames.delete(&tid);
	close_window(PW_HOLDER_PIN);
}

/* For the consumers (one file each), on entry of the function that stands for a whole operation.
 * None when it is called inside another one, and belongs to it. */
static __always_inline struct pw_frame *open_operation(void *ctx, u32 source)
{
	u32 tid = current_tid();
	u64 site = bpf_get_func_ip(ctx);
	struct pw_frame *frame = frames.lookup(&tid);

	if (frame) {
		if (frame->site && frame->site != site)
			return 0;
		discard_frame(frame);
	}
	return open_frame(source, site);
}

/* Their return: one program for each kind of result, attached to all of them. */
static __always_inline void close_operation(void *ctx, s64 rc)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);

	if (frame && frame->site == bpf_get_func_ip(ctx))
		close_frame(ctx, frame, rc);
}

int return_long(struct pt_regs *ctx)
{
	close_operation(ctx, PT_REGS_RC(ctx));
	return 0;
}

int return_int(struct pt_regs *ctx)	/* the upper half of the register is undefined */
{
	close_operation(ctx, (s32)PT_REGS_RC(ctx));
	return 0;
}

int return_pointer(struct pt_regs *ctx)	/* ERR_PTR: an errno lies in the last page */
{
	s64 rc = PT_REGS_RC(ctx);

	close_operation(ctx, rc < 0 && rc >= -MAX_ERRNO ? rc : 0);
	return 0;
}

/* The memory that an operation is about, for those that do not say it in one request. */
static __always_inline void add_memory(struct pw_frame *frame, u64 vaddr, u64 length)
{
	if (!frame->length)
		frame->vaddr = vaddr;
	frame->length += length;
	frame->span += ((vaddr + length + PAGE_SIZE - 1) >> PAGE_SHIFT) - (vaddr >> PAGE_SHIFT);
}

static __always_inline void enter_gup(u64 start, u64 nr_pages)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);

	if (frame && !frame->site) {
		discard_frame(frame);
		frame = 0;
	}
	if (!frame) {
		frame = open_frame(PW_SOURCE_OTHER, 0);
		if (!frame)
			return;
		frame->vaddr = start;
		frame->length = nr_pages << PAGE_SHIFT;
	}
	frame->gup_open = 1;
	frame->gup_pages = nr_pages;
	frame->gup_rounds = 0;
	frame->gup_loops = 0;
	frame->collect_failed = 0;
	frame->gup_calls++;
}

/* `pages` is how many were pinned when rc is none; `acquired` what nr_foll_pin_acquired grew by. */
static __always_inline void exit_gup(void *ctx, s64 rc, u64 pages, u64 acquired)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);

	if (!frame || !frame->gup_open)
		return;
	frame->gup_open = 0;
	/* A round that had to migrate pinned all pages first and dropped them again. */
	acquired += frame->gup_pages * frame->gup_rounds;
	if (rc > 0) {
		frame->pinned += pages;
		frame->gup_short = frame->gup_pages - pages;
		frame->in_place += frame->collect_failed;
	} else {
		frame->gup_rc = rc;
		frame->gup_short = frame->gup_pages;
	}
	if (frame->gup_loops > frame->max_loops)
		frame->max_loops = frame->gup_loops;
	frame->foll_pinned += acquired;
	witness(PW_WITNESS_FOLL_PIN_ACQUIRED, acquired);
	if (!frame->site)
		close_frame(ctx, frame, rc);
}

#ifdef SYM_gup_longterm
/* gup_flags is the last argument on every kernel; there were 7 of them before v6.5. The loader
 * numbers it, because a macro's argument is not calculated. */
ENTRY(gup_longterm)
{
	if (ARG(gup_longterm, GUP_FLAGS_ARG) & FOLL_LONGTERM)
		enter_gup(ARG(gup_longterm, 1), ARG(gup_longterm, 2));
	return 0;
}

EXIT(gup_longterm)
{
	s64 rc = RC(gup_longterm);

	/* Every slow get_user_pages returns here; most are none of ours. */
	if (ARGS_ON_EXIT(gup_longterm) &&
	    !(ARG(gup_longterm, GUP_FLAGS_ARG) & FOLL_LONGTERM))
		return 0;
	exit_gup(ctx, rc, rc, rc > 0 ? rc : 0);
	return 0;
}
#endif

#ifdef SYM_memfd_pin
/* memfd_pin_folios(memfd, start, end, folios, max_folios, offset), v6.11 (89c1905d9c14): all of
 * the range or an error. It counts a reference for each folio, so their number is not known here. */
ENTRY(memfd_pin)
{
	u64 start = ARG(memfd_pin, 1), end = ARG(memfd_pin, 2);

	enter_gup(start, (end >> PAGE_SHIFT) - (start >> PAGE_SHIFT) + 1);
	return 0;
}

EXIT(memfd_pin)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);

	if (frame)
		exit_gup(ctx, RC(memfd_pin), frame->gup_pages, 0);
	return 0;
}
#endif

#ifdef SYM_check_vma
/* check_vma_flags(vma, gup_flags): once for each VMA of a GUP call, and again when GUP starts
 * again; so it counts the loops, and says which VMA was refused. */
static __always_inline void refused_vma(struct pw_frame *frame, struct vm_area_struct *area, s32 rc)
{
	struct pw_failure *failure = current_failure(frame);
	struct pw_vma *vma;
	struct file *file;
	struct address_space *space;
	struct inode *inode;
	struct super_block *sb;

	if (!failure)
		return;
	vma = &failure->vma;
	vma->rc = rc;
	vma->start = KREAD(area, vm_start);
	vma->end = KREAD(area, vm_end);
	vma->flags = KREAD(area, vm_flags);
	file = (void *)KREAD(area, vm_file);
	if (!file)
		return;
	space = (void *)KREAD(file, f_mapping);
	vma->a_ops = (u64)KREAD(space, a_ops);
	inode = (void *)KREAD(space, host);
	sb = (void *)KREAD(inode, i_sb);
	vma->s_magic = KREAD(sb, s_magic);
}

EXIT(check_vma)
{
	u32 tid = current_tid();
	s32 rc = RC(check_vma);
	struct vm_area_struct *area;
	struct pw_frame *frame;

	if (!in_longterm_pin())
		return 0;
	frame = frames.lookup(&tid);
	if (!frame || !frame->gup_open)
		return 0;
	area = (void *)plain(ARG(check_vma, 0));
	frame->gup_loops++;
	frame->vma_flags = KREAD(area, vm_flags);
	if (rc)
		refused_vma(frame, area, rc);
	return 0;
}
#endif

#ifdef SYM_collect
/* collect_longterm_unpinnable_folios(list, pages_or_folios), v6.12: how many may not be pinned.
 * None of them on the list: something else has taken all of them off the LRU, so GUP starts again. */
EXIT(collect)
{
	u32 tid = current_tid();
	struct pw_frame *frame;
	u64 list;

	if (!RC(collect))
		return 0;
	frame = frames.lookup(&tid);
	if (!frame || !frame->gup_open)
		return 0;
	list = plain(ARG(collect, 0));
	frame->collect_failed = KREAD_AT(u64, list) == list;
	frame->isolate_failed += frame->collect_failed;
	return 0;
}
#endif

/* No thread ends in a pin. Else the frame would be a pin that is stuck, for ever. */
RAW_TP(task_exit)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);

	if (frame)
		discard_frame(frame);
	return 0;
}

#ifdef SYM_memcg_oom
/* mem_cgroup_out_of_memory(memcg, gfp_mask, order): a charge that found nothing to reclaim. */
ENTRY(memcg_oom)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);
	struct pw_failure *failure = frame ? current_failure(frame) : 0;

	if (failure)
		failure->memcg_oom++;
	return 0;
}
#endif
