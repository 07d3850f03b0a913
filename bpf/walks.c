/* SPDX-License-Identifier: GPL-2.0 */
/*
 * walks.c - who walks a mapping now, taking a reference on every folio of a batch and keeping it
 * until the batch is done: drop_caches, posix_fadvise, khugepaged. The mapping proves it.
 */

BPF_HASH(walked, u32, u64, 256);	/* thread -> mapping it is in */

static __always_inline void enter_walk(u64 mapping, u32 holder, u64 start_ns)
{
	u32 tid = current_tid();
	struct walk walk = {};

	fill_culprit(&walk.who, holder);
	if (start_ns)
		walk.who.start_ns = start_ns;
	walks.update(&mapping, &walk);
	walked.update(&tid, &mapping);
}

static __always_inline void exit_walk(void)
{
	u32 tid = current_tid();
	u64 *mapping = walked.lookup(&tid);
	struct walk *walk;
	u64 key;

	if (!mapping)
		return;
	key = *mapping;
	walk = walks.lookup(&key);
	if (walk && walk->who.tid == tid)
		walk->end_ns = bpf_ktime_get_ns();
	walked.delete(&tid);
}

#ifdef SYM_drop_caches
BPF_HASH(droppers, u32, u64, 64);	/* thread -> when it began */

static __always_inline void enter_drop_caches(u64 buffer)
{
	u32 tid = current_tid();
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *parent = (void *)KREAD(task, real_parent);
	struct pw_window *window = open_window(PW_HOLDER_DROP_CACHES);

	if (!window)
		return;
	droppers.update(&tid, &window->start_ns);
	/* The buffer is the kernel's copy of the text since v5.8 (32927393dc1c). */
	window->value = KREAD_AT(u8, buffer) - '0';
	window->parent_tgid = KREAD(parent, tgid);
	bpf_probe_read_kernel_str(&window->parent_comm, sizeof(window->parent_comm), &parent->comm);
}

ENTRY(drop_caches)	/* drop_caches_sysctl_handler(table, write, buffer, length, ppos) */
{
	if ((u32)ARG(drop_caches, 1))
		enter_drop_caches(plain(ARG(drop_caches, 2)));
	return 0;
}

EXIT(drop_caches)
{
	u32 tid = current_tid();

	if (droppers.lookup(&tid)) {
		close_window(PW_HOLDER_DROP_CACHES);
		droppers.delete(&tid);
	}
	return 0;
}

#ifdef SYM_invalidate
ENTRY(invalidate)	/* invalidate_mapping_pages(mapping, start, end) */
{
	u32 tid = current_tid();
	u64 *start_ns = droppers.lookup(&tid);

	if (start_ns)	/* inode reclaim calls this as well */
		enter_walk(plain(ARG(invalidate, 0)), PW_HOLDER_DROP_CACHES, *start_ns);
	return 0;
}

EXIT(invalidate)
{
	exit_walk();
	return 0;
}
#endif
#endif

#ifdef SYM_fadvise
ENTRY(fadvise)	/* mapping_try_invalidate(mapping, start, end, ...) */
{
	u32 tid = current_tid();

	if (!walked.lookup(&tid))	/* from v6.5 the walk of drop_caches comes here, too */
		enter_walk(plain(ARG(fadvise, 0)), PW_HOLDER_FADVISE, 0);
	return 0;
}

EXIT(fadvise)
{
	u32 tid = current_tid();
	u64 *mapping = walked.lookup(&tid);
	struct walk *walk = mapping ? walks.lookup(mapping) : 0;

	if (walk && walk->who.holder == PW_HOLDER_FADVISE)
		exit_walk();
	return 0;
}
#endif

#ifdef SYM_collapse_file
ENTRY(collapse_file)	/* collapse_file(mm, addr, file, start, ...): khugepaged, MADV_COLLAPSE */
{
	struct file *file = (void *)plain(ARG(collapse_file, 2));

	enter_walk((u64)KREAD(file, f_mapping), PW_HOLDER_KHUGEPAGED, 0);
	return 0;
}

EXIT(collapse_file)
{
	exit_walk();
	return 0;
}
#endif
