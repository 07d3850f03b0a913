/* SPDX-License-Identifier: GPL-2.0 */
/*
 * windows.h - what is going on that takes references or isolates pages: the newest activity of
 * each kind, in place. A failed pin copies them all; nothing leaves the kernel for them.
 *
 * Two of a kind at a time overwrite each other, and the last one counts: it was there as well.
 */

BPF_ARRAY(windows, struct pw_window, PW_HOLDER_COUNT);

static __always_inline struct pw_window *window_of(u32 holder)
{
	return windows.lookup(&holder);
}

static __always_inline struct pw_window *open_window(u32 holder)
{
	struct pw_window *window = window_of(holder);
	u64 pid_tgid = bpf_get_current_pid_tgid();

	if (!window)
		return 0;
	window->start_ns = bpf_ktime_get_ns();
	window->end_ns = 0;
	window->first_pfn = 0;
	window->last_pfn = 0;
	window->tgid = pid_tgid >> 32;
	window->tid = (u32)pid_tgid;
	bpf_get_current_comm(&window->comm, sizeof(window->comm));
	return window;
}

/* Only the one that opened it last ends it; so a missed beginning does no harm. */
static __always_inline void close_window(u32 holder)
{
	struct pw_window *window = window_of(holder);

	if (window && window->tid == current_tid())
		window->end_ns = bpf_ktime_get_ns();
}

static __always_inline void copy_windows(struct pw_window *copies)
{
	u32 holder;

#pragma clang loop unroll(disable)
	for (holder = 0; holder < PW_HOLDER_COUNT; holder++)
		bpf_probe_read_kernel(&copies[holder], sizeof(*copies), window_of(holder));
}

#define WINDOW_GAP_NS 10000000

/* For activities that show themselves again and again, but neither begin nor end. */
static __always_inline struct pw_window *touch_window(u32 holder)
{
	struct pw_window *window = window_of(holder);
	u64 now = bpf_ktime_get_ns();

	if (!window)
		return 0;
	if (window->tid != current_tid() || now - window->end_ns > WINDOW_GAP_NS)
		window = open_window(holder);
	if (window)
		window->end_ns = now;
	return window;
}
