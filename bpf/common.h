/* SPDX-License-Identifier: GPL-2.0 */
/*
 * common.h - maps, counters and the macros that make one handler serve fentry and kprobe.
 *
 * A hook is a place in the kernel. The loader chooses its symbol (SYM_<hook>) and its mode
 * (MODE_<hook>: FENTRY or KPROBE) among the candidates of pinwatch/host/compat.py; a hook that this
 * kernel does not have has neither, and its programs are not compiled.
 */

#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)

/* bcc loads kfunc__X as fentry and kretfunc__X as fexit of X; since 0.28 it wants to be told where X
 * is, kfunc__vmlinux__X, which the loader knows. */
#define ENTRY_FENTRY(hook) int CAT(CAT(kfunc__, FENTRY_OF), SYM_##hook)(u64 *ctx)
#define EXIT_FENTRY(hook) int CAT(CAT(kretfunc__, FENTRY_OF), SYM_##hook)(u64 *ctx)
#define ARG_FENTRY(n) ctx[n]
#define RC_FENTRY(hook) ((s64)ctx[NARGS_##hook])
#define ARGS_ON_EXIT_FENTRY 1

#define ENTRY_KPROBE(hook) int entry_##hook(struct pt_regs *ctx)
#define EXIT_KPROBE(hook) int return_##hook(struct pt_regs *ctx)
#define ARG_KPROBE(n) CAT(REGS_ARG, n)(ctx)
#define RC_KPROBE(hook) ((s64)PT_REGS_RC(ctx))
#define ARGS_ON_EXIT_KPROBE 0

#define REGS_ARG0 PT_REGS_PARM1
#define REGS_ARG1 PT_REGS_PARM2
#define REGS_ARG2 PT_REGS_PARM3
#define REGS_ARG3 PT_REGS_PARM4
#define REGS_ARG4 PT_REGS_PARM5
#define REGS_ARG5 PT_REGS_PARM6

#define ENTRY(hook) CAT(ENTRY_, MODE_##hook)(hook)
#define EXIT(hook) CAT(EXIT_, MODE_##hook)(hook)
#define ARG(hook, n) CAT(ARG_, MODE_##hook)(n)
#define RC(hook) CAT(RC_, MODE_##hook)(hook)
#define ARGS_ON_EXIT(hook) CAT(ARGS_ON_EXIT_, MODE_##hook)
#define MAX_ERRNO 4095
#define RAW_TP(hook) int tp_##hook(struct bpf_raw_tracepoint_args *ctx)

/* Zero when the read faults. No branch for that: it would double the verifier's work each time. */
#define KREAD_AT(type, address)                                                               \
	({                                                                                    \
		type value_ = 0;                                                              \
		bpf_probe_read_kernel(&value_, sizeof(value_), (void *)(address));            \
		value_;                                                                       \
	})
#define KREAD(pointer, field) KREAD_AT(typeof((pointer)->field), &(pointer)->field)

/* An argument of an fentry program as a plain number: the verifier knows it as a typed pointer and
 * refuses arithmetic. Costs a helper call, so only where something failed. */
static __always_inline u64 plain(u64 argument)
{
	u64 copy = 0;

	bpf_probe_read_kernel(&copy, sizeof(copy), &argument);
	return copy;
}

BPF_RINGBUF_OUTPUT(events, 512);	/* pages: 2 MiB, some 280 failing pins */
BPF_PERCPU_ARRAY(losses, u64, PW_LOSS_COUNT);
BPF_PERCPU_ARRAY(witnesses, u64, PW_WITNESS_COUNT);
BPF_PERCPU_ARRAY(durations, struct pw_duration, PW_SOURCE_COUNT * PW_RESULT_COUNT);
BPF_HASH(totals, struct pw_total_key, struct pw_total, 16384);
BPF_ARRAY(limits, struct pw_limits, 1);
BPF_HASH(frames, u32, struct pw_frame, 2048);		/* by thread */
BPF_HASH(failures, u32, struct pw_failure, 512);	/* by thread, failing pins only */
BPF_ARRAY(no_failure, struct pw_failure, 1);		/* zeroes: too large for the stack */

static __always_inline void lost(u32 kind)
{
	u64 *count = losses.lookup(&kind);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void witness(u32 what, u64 amount)
{
	u64 *count;

	if (!amount)
		return;
	count = witnesses.lookup(&what);
	if (count)
		__sync_fetch_and_add(count, amount);
}

static __always_inline u32 current_tid(void)
{
	return (u32)bpf_get_current_pid_tgid();
}
