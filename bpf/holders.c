/* SPDX-License-Identifier: GPL-2.0 */
/*
 * holders.c - activities that take references or isolate pages, by tracepoint where there is one.
 * Each keeps its window (windows.h); what a long-term pin does to itself is no holder.
 */

static __always_inline bool is_ours(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->flags & PF_MEMALLOC_PIN;
}

static __always_inline void open_pfn_window(u32 holder, u64 first, u64 last)
{
	struct pw_window *window = open_window(holder);

	if (window) {
		window->first_pfn = first;
		window->last_pfn = last;
	}
}

#define WINDOW_EXIT(hook, holder)	\
	EXIT(hook)			\
	{				\
		close_window(holder);	\
		return 0;		\
	}

/* Compaction: also where a pin itself waits for a destination. */
RAW_TP(compaction_begin)
{
	if (is_ours())
		begin_wait(PW_WAIT_COMPACTION);
	else
		open_window(PW_HOLDER_COMPACTION);
	return 0;
}

RAW_TP(compaction_end)
{
	if (is_ours())
		end_wait(PW_WAIT_COMPACTION);
	else
		close_window(PW_HOLDER_COMPACTION);
	return 0;
}

#ifdef SYM_reclaim
ENTRY(reclaim)	/* shrink_node(pgdat, scan_control): kswapd, direct, and of a memory cgroup */
{
	if (!is_ours())
		open_window(PW_HOLDER_RECLAIM);
	return 0;
}
WINDOW_EXIT(reclaim, PW_HOLDER_RECLAIM)
#endif

#ifdef SYM_pageout
ENTRY(pageout)	/* reclaim_pages(list): MADV_PAGEOUT, DAMON */
{
	open_window(PW_HOLDER_RECLAIM);
	return 0;
}
WINDOW_EXIT(pageout, PW_HOLDER_RECLAIM)
#endif

RAW_TP(khugepaged_pmd)
{
	touch_window(PW_HOLDER_KHUGEPAGED);
	return 0;
}

RAW_TP(khugepaged_file)
{
	touch_window(PW_HOLDER_KHUGEPAGED);
	return 0;
}

RAW_TP(ksm_start)
{
	open_window(PW_HOLDER_KSMD);
	return 0;
}

RAW_TP(ksm_stop)
{
	close_window(PW_HOLDER_KSMD);
	return 0;
}

#ifdef SYM_ksm_merge
ENTRY(ksm_merge)	/* try_to_merge_one_page(vma, page, kpage): all there is before v6.5 */
{
	touch_window(PW_HOLDER_KSMD);
	return 0;
}
#endif

#ifdef SYM_damon
ENTRY(damon)	/* damon_get_folio(pfn) */
{
	struct pw_window *window = touch_window(PW_HOLDER_DAMON);

	if (window) {
		window->first_pfn = ARG(damon, 0);
		window->last_pfn = window->first_pfn + 1;
	}
	return 0;
}
#endif

#ifdef SYM_offline
ENTRY(offline)	/* offline_pages(start_pfn, nr_pages, zone, group) */
{
	u64 first = ARG(offline, 0);

	open_pfn_window(PW_HOLDER_MEMORY_OFFLINE, first, first + ARG(offline, 1));
	return 0;
}
WINDOW_EXIT(offline, PW_HOLDER_MEMORY_OFFLINE)
#endif

#ifdef SYM_contig
ENTRY(contig)	/* alloc_contig_range(start, end, ...) */
{
	open_pfn_window(PW_HOLDER_CONTIG_ALLOC, ARG(contig, 0), ARG(contig, 1));
	return 0;
}
WINDOW_EXIT(contig, PW_HOLDER_CONTIG_ALLOC)
#endif

#ifdef SYM_memory_failure
ENTRY(memory_failure)	/* memory_failure(pfn, flags) */
{
	u64 pfn = ARG(memory_failure, 0);

	open_pfn_window(PW_HOLDER_MEMORY_FAILURE, pfn, pfn + 1);
	return 0;
}
WINDOW_EXIT(memory_failure, PW_HOLDER_MEMORY_FAILURE)
#endif

#ifdef SYM_process_vm
ENTRY(process_vm)	/* process_vm_rw(pid, ...) */
{
	struct pw_window *window = open_window(PW_HOLDER_PROCESS_VM);

	if (window)
		window->value = (u32)ARG(process_vm, 0);
	return 0;
}
WINDOW_EXIT(process_vm, PW_HOLDER_PROCESS_VM)
#endif
