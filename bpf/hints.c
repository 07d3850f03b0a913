/* SPDX-License-Identifier: GPL-2.0 */
/*
 * hints.c - what a process says of its memory: madvise, MAP_POPULATE, mlock, policies. A VMM says it
 * once, of large ranges, so small ranges are passed over, and more than HINTS_PER_TASK of a process
 * as well. At the return, where the arguments still are; of malloc's and free's calls only a register
 * or two are read.
 */

#define HINT_MIN_BYTES (16ULL << 20)
#define HINTS_PER_TASK 64

BPF_TABLE("lru_hash", u32, u32, hints_told, 4096);	/* by process */

/* Pages that the process has: since v6.2 (f1a7941243c1) the kernel's sum lags by some for each CPU. */
static __always_inline u64 resident_pages(struct mm_struct *mm)
{
	s64 sum = 0, count;
	u32 i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		if (i == 2)
			continue;	/* MM_SWAPENTS */
#ifdef HAS_mm_rss_stat_count
		count = KREAD_AT(s64, (u64)&mm->rss_stat + i * sizeof(s64));
#else
		count = KREAD_AT(s64, (u64)&mm->rss_stat + i * sizeof(struct percpu_counter) +
				      __builtin_offsetof(struct percpu_counter, count));
#endif
		sum += count > 0 ? count : 0;
	}
	return sum;
}

static __always_inline u64 pages_of(struct task_struct *task, u32 source)
{
	struct pw_total_key key = {
		.task_start_ns = task_start_ns(task),
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.source = source,
	};
	struct pw_total *total = totals.lookup(&key);

	return total ? total->pages : 0;
}

static __always_inline bool may_tell(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, first = 1;
	u32 *told = hints_told.lookup(&tgid);

	if (!told) {
		hints_told.update(&tgid, &first);
		return true;
	}
	if (*told >= HINTS_PER_TASK) {
		lost(PW_LOSS_HINTS_FULL);
		return false;
	}
	__sync_fetch_and_add(told, 1);
	return true;
}

static __always_inline void tell_hint(u32 call, u32 value, u64 address, u64 length, s64 rc)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mm_struct *mm = (void *)KREAD(task, mm);
	struct pw_hint_record *record;

	if (!mm || !may_tell())
		return;
	record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		lost(PW_LOSS_RING_FULL);
		return;
	}
	fill_head(&record->head, PW_RECORD_HINT);
	record->address = address;
	record->length = length;
	record->resident_pages = resident_pages(mm);
	record->pinned_pages = pages_of(task, PW_SOURCE_VFIO_TYPE1) + pages_of(task, PW_SOURCE_IOMMUFD);
	record->rc = rc;
	record->call = call;
	record->value = value;
	events.ringbuf_submit(record, 0);
}

/* A system call's only argument: its caller's registers. */
#define CALLER(hook) ((struct pt_regs *)plain(ARG(hook, 0)))

#ifdef SYM_hint_madvise
/* MERGEABLE, HUGEPAGE, NOHUGEPAGE, COLD, PAGEOUT, POPULATE_READ, _WRITE, COLLAPSE; then 26 and more,
 * which no kernel knows, up to those for tests (100: HWPOISON). */
#define ADVICE_TOLD (1ULL << 12 | 1ULL << 14 | 1ULL << 15 | 0xfULL << 20 | 1ULL << 25)
#define ADVICE_FIRST_UNKNOWN 26
#define ADVICE_LAST_UNKNOWN 99

EXIT(hint_madvise)	/* madvise(start, length, advice) */
{
	struct pt_regs *regs = CALLER(hint_madvise);
	u64 advice = (u32)KREAD(regs, dx), length;

	if (advice > ADVICE_LAST_UNKNOWN ||
	    (advice < ADVICE_FIRST_UNKNOWN && !(ADVICE_TOLD >> advice & 1)))
		return 0;
	length = KREAD(regs, si);
	if (length >= HINT_MIN_BYTES)
		tell_hint(PW_CALL_MADVISE, advice, KREAD(regs, di), length, RC(hint_madvise));
	return 0;
}
#endif

#ifdef SYM_hint_mmap
#define MAP_LOCKED 0x2000
#define MAP_POPULATE 0x8000
#define MAP_HUGETLB 0x40000

EXIT(hint_mmap)	/* mmap(addr, length, prot, flags, fd, offset) */
{
	struct pt_regs *regs = CALLER(hint_mmap);
	u64 flags = KREAD(regs, r10), length;
	s64 rc = RC(hint_mmap);

	if (!(flags & (MAP_LOCKED | MAP_POPULATE | MAP_HUGETLB)))
		return 0;
	length = KREAD(regs, si);
	if (length >= HINT_MIN_BYTES)
		tell_hint(PW_CALL_MMAP, flags, rc, length, rc < 0 && rc >= -MAX_ERRNO ? rc : 0);
	return 0;
}
#endif

#ifdef SYM_hint_mlock
EXIT(hint_mlock)	/* mlock(start, length) */
{
	struct pt_regs *regs = CALLER(hint_mlock);
	u64 length = KREAD(regs, si);

	if (length >= HINT_MIN_BYTES)
		tell_hint(PW_CALL_MLOCK, 0, KREAD(regs, di), length, RC(hint_mlock));
	return 0;
}
#endif

#ifdef SYM_hint_mlock2
EXIT(hint_mlock2)	/* mlock2(start, length, flags) */
{
	struct pt_regs *regs = CALLER(hint_mlock2);
	u64 length = KREAD(regs, si);

	if (length >= HINT_MIN_BYTES)
		tell_hint(PW_CALL_MLOCK, KREAD(regs, dx), KREAD(regs, di), length, RC(hint_mlock2));
	return 0;
}
#endif

#ifdef SYM_hint_mlockall
EXIT(hint_mlockall)	/* mlockall(flags) */
{
	tell_hint(PW_CALL_MLOCKALL, KREAD(CALLER(hint_mlockall), di), 0, 0, RC(hint_mlockall));
	return 0;
}
#endif

#ifdef SYM_hint_prctl
#define PR_SET_THP_DISABLE 41

EXIT(hint_prctl)	/* prctl(option, ...) */
{
	struct pt_regs *regs = CALLER(hint_prctl);

	if ((u32)KREAD(regs, di) == PR_SET_THP_DISABLE)
		tell_hint(PW_CALL_PRCTL, KREAD(regs, si), 0, 0, RC(hint_prctl));
	return 0;
}
#endif

#ifdef SYM_hint_memfd_create
#define MFD_HUGETLB 0x4

EXIT(hint_memfd_create)	/* memfd_create(name, flags) */
{
	u32 flags = KREAD(CALLER(hint_memfd_create), si);
	s64 rc = RC(hint_memfd_create);

	if (flags & MFD_HUGETLB)
		tell_hint(PW_CALL_MEMFD_CREATE, flags, 0, 0, rc < 0 ? rc : 0);
	return 0;
}
#endif

#ifdef SYM_hint_mbind
EXIT(hint_mbind)	/* mbind(start, length, mode, nodes, highest, flags) */
{
	struct pt_regs *regs = CALLER(hint_mbind);
	u64 length = KREAD(regs, si);

	if (length >= HINT_MIN_BYTES)
		tell_hint(PW_CALL_MBIND, KREAD(regs, dx), KREAD(regs, di), length, RC(hint_mbind));
	return 0;
}
#endif

#ifdef SYM_hint_set_mempolicy
EXIT(hint_set_mempolicy)	/* set_mempolicy(mode, nodes, highest) */
{
	u32 mode = KREAD(CALLER(hint_set_mempolicy), di);

	tell_hint(PW_CALL_SET_MEMPOLICY, mode, 0, 0, RC(hint_set_mempolicy));
	return 0;
}
#endif
