/* SPDX-License-Identifier: GPL-2.0 */
/*
 * task.h - who the current task is: all that names a VM even when the process is gone before
 * user space looks.
 */

/* In a long-term pin, and not in reclaim or compaction that its own allocation entered: those
 * fail all the time and are never the cause. */
static __always_inline bool in_longterm_pin(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (task->flags & (PF_MEMALLOC_PIN | PF_MEMALLOC)) == PF_MEMALLOC_PIN;
}

static __always_inline bool in_nested_reclaim(void)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return (task->flags & (PF_MEMALLOC_PIN | PF_MEMALLOC)) == (PF_MEMALLOC_PIN | PF_MEMALLOC);
}

static __always_inline u64 task_start_ns(struct task_struct *task)
{
	struct task_struct *leader = (void *)KREAD(task, group_leader);

	return KREAD(leader, start_boottime);
}

static __always_inline void fill_head(struct pw_head *head, u32 kind)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 pid_tgid = bpf_get_current_pid_tgid();

	head->kind = kind;
	head->tgid = pid_tgid >> 32;
	head->tid = (u32)pid_tgid;
	head->uid = (u32)bpf_get_current_uid_gid();
	head->time_ns = bpf_ktime_get_ns();
	head->task_start_ns = task_start_ns(task);
	head->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(&head->comm, sizeof(head->comm));
}

static __always_inline void fill_cmdline(struct pw_cmdline *cmdline)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mm_struct *mm = (void *)KREAD(task, mm);
	u64 start, size;
	long rc;

	cmdline->len = 0;
	cmdline->error = 0;
	if (!mm)
		return;	/* a kernel thread */
	start = KREAD(mm, arg_start);
	size = KREAD(mm, arg_end) - start;
	if (size > PW_CMDLINE_LEN)
		size = PW_CMDLINE_LEN;
	rc = bpf_probe_read_user(cmdline->text, size, (void *)start);
	if (rc)
		cmdline->error = -rc;	/* swapped out: user space reads /proc instead */
	else
		cmdline->len = size;
}

static __always_inline void fill_memlock(struct pw_memlock *memlock)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mm_struct *mm = (void *)KREAD(task, mm);
	struct signal_struct *signal = (void *)KREAD(task, signal);
	struct cred *cred = (void *)KREAD(task, cred);

	/* struct rlimit is two longs: current, maximum. */
	memlock->limit_bytes = KREAD_AT(u64, (u64)&signal->rlim + RLIMIT_MEMLOCK * 16);
	memlock->locked_pages = mm ? KREAD(mm, locked_vm) : 0;
	memlock->pinned_pages = mm ? KREAD(mm, pinned_vm) : 0;
	memlock->user_pages = KREAD((struct user_struct *)KREAD(cred, user), locked_vm);
	memlock->cap_effective = KREAD(cred, cap_effective);
}

/* Say once of each process who it is. */
static __always_inline void announce_task(void)
{
	struct pw_task_record *record = events.ringbuf_reserve(sizeof(*record));

	if (!record) {
		lost(PW_LOSS_RING_FULL);
		return;
	}
	fill_head(&record->head, PW_RECORD_TASK);
	fill_cmdline(&record->cmdline);
	events.ringbuf_submit(record, 0);
}

/* The counters of the current process for a source. The first operation of each makes it known by
 * its command line. */
static __always_inline struct pw_total *total_of(struct pw_frame *frame)
{
	struct pw_total_key key = {
		.task_start_ns = frame->task_start_ns,
		.tgid = frame->tgid,
		.source = frame->source,
	};
	struct pw_total *total = totals.lookup(&key), zero = {};

	if (total)
		return total;
	announce_task();
	totals.insert(&key, &zero);	/* or another thread did */
	total = totals.lookup(&key);
	if (!total)
		lost(PW_LOSS_TOTALS_FULL);
	return total;
}
