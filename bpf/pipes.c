/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pipes.c - pages put into a pipe: each holds a plain reference until somebody reads it, for ever
 * if nobody does. What is remembered proves nothing by itself; is_in_pipe() looks again.
 *
 * Seen by the call and not by the page: what the pipe has more at its end was put there.
 */

#define MAX_PIPED 16	/* of one call; a pipe has 16 buffers unless it was made larger */

struct piping {
	u64 pipe;
	u32 head;	/* where the pipe ended before */
	u32 pad;
};

BPF_HASH(pipings, u32, struct piping, 256);	/* by thread */

static __always_inline void enter_piping(u64 pipe)
{
	u32 tid = current_tid();
	struct piping call = {};

	call.pipe = pipe;
	call.head = KREAD((struct pipe_inode_info *)pipe, head);
	pipings.update(&tid, &call);
}

static __always_inline void note_piped(struct pipe_inode_info *pipe, struct piped *entry, u32 slot)
{
	u64 buffers = (u64)KREAD(pipe, bufs), folio;
	u32 size = KREAD(pipe, ring_size);
	struct pipe_buffer *buffer;

	buffer = (void *)(buffers + (slot & (size - 1)) * sizeof(struct pipe_buffer));
	entry->slot = slot;
	entry->page = (u64)KREAD(buffer, page);
	folio = head_of(entry->page);
	piped.update(&folio, entry);
}

static __always_inline void exit_piping(void)
{
	u32 tid = current_tid(), i, added;
	struct piping *call = pipings.lookup(&tid);
	struct pipe_inode_info *pipe;
	struct piped entry = {};

	if (!call)
		return;
	pipe = (void *)call->pipe;
	fill_culprit(&entry.who, PW_HOLDER_PIPE);
	entry.pipe = call->pipe;
	added = KREAD(pipe, head) - call->head;
#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_PIPED; i++) {
		if (i >= added)
			break;
		note_piped(pipe, &entry, call->head + i);
	}
	pipings.delete(&tid);
}

#ifdef SYM_vmsplice
static __always_inline u64 pipe_of(u32 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct files_struct *files = (void *)KREAD(task, files);
	struct fdtable *table = (void *)KREAD(files, fdt);
	u64 descriptors = (u64)KREAD(table, fd);
	struct file *file = (void *)KREAD_AT(u64, descriptors + fd * sizeof(u64));

	return (u64)KREAD(file, private_data);
}

ENTRY(vmsplice)	/* the system call: (fd, iovec, nr_segs, flags) in the caller's registers */
{
	struct pt_regs *registers = (void *)plain(ARG(vmsplice, 0));

	enter_piping(pipe_of(KREAD(registers, di)));
	return 0;
}

EXIT(vmsplice)
{
	exit_piping();
	return 0;
}
#endif

#ifdef SYM_splice
ENTRY(splice)	/* splice_file_to_pipe(in, opipe, offset, len, flags): splice(2), io_uring */
{
	enter_piping(plain(ARG(splice, 1)));
	return 0;
}

EXIT(splice)
{
	exit_piping();
	return 0;
}
#endif
