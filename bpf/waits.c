/* SPDX-License-Identifier: GPL-2.0 */
/*
 * waits.c - where the time of a long-term pin goes. Other callers of these functions leave at the
 * first test.
 */

static __always_inline struct pw_frame *waiting_frame(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 tid = current_tid();

	return task->flags & PF_MEMALLOC_PIN ? frames.lookup(&tid) : 0;
}

static __always_inline void begin_wait(u32 wait)
{
	struct pw_frame *frame = waiting_frame();

	if (!frame || frame->waiting)
		return;
	frame->waiting = wait + 1;
	frame->wait_start_ns = bpf_ktime_get_ns();
}

static __always_inline void end_wait(u32 wait)
{
	struct pw_frame *frame = waiting_frame();

	if (!frame || frame->waiting != wait + 1)
		return;
	frame->waiting = 0;
	frame->wait_ns[wait] += bpf_ktime_get_ns() - frame->wait_start_ns;
}

#define WAIT(hook, wait)		\
	ENTRY(hook)			\
	{				\
		begin_wait(wait);	\
		return 0;		\
	}				\
	EXIT(hook)			\
	{				\
		end_wait(wait);		\
		return 0;		\
	}

#ifdef SYM_lru_drain
WAIT(lru_drain, PW_WAIT_LRU_DRAIN)
#endif
#ifdef SYM_writeback
WAIT(writeback, PW_WAIT_WRITEBACK)
#endif
#ifdef SYM_folio_lock
WAIT(folio_lock, PW_WAIT_FOLIO_LOCK)
#endif
