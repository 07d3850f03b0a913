/* SPDX-License-Identifier: GPL-2.0 */
/*
 * drop_caches.c - who writes to /proc/sys/vm/drop_caches, and which mapping it walks now. The
 * walk takes a reference on every folio of a batch and keeps it until the batch is done.
 */

#ifdef SYM_drop_caches
BPF_HASH(droppers, u32, u64, 64);	/* thread -> when it began */

static __always_inline void report_dropper(u64 start_ns, u64 end_ns, u32 value)
{
	struct pw_holder_record *record = events.ringbuf_reserve(sizeof(*record));
	struct task_struct *task = bpf_get_current_task_btf(), *parent;

	if (!record) {
		lost(PW_LOSS_RING_FULL);
		return;
	}
	fill_head(&record->head, PW_RECORD_HOLDER);
	parent = (void *)KREAD(task, real_parent);
	record->start_ns = start_ns;
	record->end_ns = end_ns;
	record->holder = PW_HOLDER_DROP_CACHES;
	record->value = value;
	record->parent_tgid = KREAD(parent, tgid);
	bpf_probe_read_kernel_str(&record->parent_comm, sizeof(record->parent_comm), &parent->comm);
	events.ringbuf_submit(record, 0);
}

static __always_inline void enter_drop_caches(u64 write, u64 buffer)
{
	u32 tid = current_tid();
	u64 now = bpf_ktime_get_ns();

	if (!(u32)write)
		return;
	droppers.update(&tid, &now);
	/* The buffer is the kernel's copy of the text since v5.8 (32927393dc1c). */
	report_dropper(now, 0, KREAD_AT(u8, buffer) - '0');
}

static __always_inline void exit_drop_caches(void)
{
	u32 tid = current_tid();
	u64 *start_ns = droppers.lookup(&tid);

	if (!start_ns)
		return;
	report_dropper(*start_ns, bpf_ktime_get_ns(), 0);
	droppers.delete(&tid);
}

ENTRY(drop_caches)	/* drop_caches_sysctl_handler(table, write, buffer, length, ppos) */
{
	enter_drop_caches(ARG(drop_caches, 1), plain(ARG(drop_caches, 2)));
	return 0;
}

EXIT(drop_caches)
{
	exit_drop_caches();
	return 0;
}

#ifdef SYM_invalidate
BPF_HASH(walked, u32, u64, 64);	/* thread -> mapping it is in */

static __always_inline void enter_invalidate(u64 mapping)
{
	u32 tid = current_tid();
	u64 *start_ns = droppers.lookup(&tid);
	struct walk walk = {};

	if (!start_ns)
		return;	/* inode reclaim calls this as well */
	walk.start_ns = *start_ns;
	walk.tid = tid;
	walks.update(&mapping, &walk);
	walked.update(&tid, &mapping);
}

static __always_inline void exit_invalidate(void)
{
	u32 tid = current_tid();
	u64 *mapping = walked.lookup(&tid);
	struct walk *walk;
	u64 key;

	if (!mapping)
		return;
	key = *mapping;
	walk = walks.lookup(&key);
	if (walk)
		walk->end_ns = bpf_ktime_get_ns();
	walked.delete(&tid);
}

ENTRY(invalidate)	/* invalidate_mapping_pages(mapping, start, end) */
{
	enter_invalidate(plain(ARG(invalidate, 0)));
	return 0;
}

EXIT(invalidate)
{
	exit_invalidate();
	return 0;
}
#endif
#endif
