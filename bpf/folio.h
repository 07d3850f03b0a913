/* SPDX-License-Identifier: GPL-2.0 */
/*
 * folio.h - the state of a folio that could not be moved, and who was seen at it. Failure path only.
 */

/* Who walks a mapping, taking references on its folios batch by batch (walks.c). */
struct walk {
	struct pw_culprit who;
	u64 end_ns;		/* 0: walking now */
};

#define WALK_LINGER_NS 1000000	/* ended less than this ago still counts */

BPF_TABLE("lru_hash", u64, struct walk, walks, 1024);	/* by address of the mapping */

/* Which pipe a folio was put into (pipes.c). */
struct piped {
	struct pw_culprit who;
	u64 pipe;
	u64 page;
	u32 slot;
	u32 pad;
};

BPF_TABLE("lru_hash", u64, struct piped, piped, 4096);	/* by address of the folio */

static __always_inline void fill_culprit(struct pw_culprit *who, u32 holder)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();

	who->start_ns = bpf_ktime_get_ns();
	who->holder = holder;
	who->tgid = pid_tgid >> 32;
	who->tid = (u32)pid_tgid;
	bpf_get_current_comm(&who->comm, sizeof(who->comm));
}

static __always_inline struct pw_failure *current_failure(struct pw_frame *frame)
{
	struct pw_failure *failure, *zero;
	u32 tid = current_tid(), first = 0;

	failure = failures.lookup(&tid);
	if (failure)
		return failure;
	zero = no_failure.lookup(&first);
	if (!zero)
		return 0;
	failures.insert(&tid, zero);
	failure = failures.lookup(&tid);
	if (!failure)
		lost(PW_LOSS_FAILURES_FULL);
	else
		frame->failing = 1;
	return failure;
}

static __always_inline void read_mapping(struct pw_folio *entry)
{
	struct address_space *space = (void *)(entry->mapping & ~3ULL);
	struct inode *inode;
	struct super_block *sb;

	if (!space || (entry->mapping & 1))
		return;	/* anonymous or KSM: what it points at is no address_space */
	entry->a_ops = (u64)KREAD(space, a_ops);
	entry->migrate_op = migrate_operation(entry->a_ops);
	inode = (void *)KREAD(space, host);
	if (!inode)
		return;
	sb = (void *)KREAD(inode, i_sb);
	if (sb)
		entry->s_magic = KREAD(sb, s_magic);
}

static __always_inline void read_folio(struct pw_folio *entry)
{
	struct folio *folio = (struct folio *)entry->folio;
	u32 order = folio_order(folio);
	u64 readable;

	if (bpf_probe_read_kernel(&readable, sizeof(readable), folio))
		lost(PW_LOSS_READ_FAULT);
	entry->is_read = 1;
	entry->order = order;
	entry->flags = folio_flags(folio);
	entry->refcount = KREAD(folio, _refcount);
	entry->mapcount = folio_mapcount(folio, order);
	entry->pincount = order ? (s32)KREAD(folio, _pincount) : -1;
	entry->index = KREAD(folio, index);
	entry->pfn = folio_pfn(folio);
	entry->pageblock = pageblock_bits(entry->pfn);
	entry->page_type = folio_page_type(folio, order);
	read_mapping(entry);
}

/* Is the buffer that held the folio's page still between the pipe's ends? */
static __always_inline bool is_in_pipe(struct piped *entry)
{
	struct pipe_inode_info *pipe = (void *)entry->pipe;
	u32 head = KREAD(pipe, head), tail = KREAD(pipe, tail), size = KREAD(pipe, ring_size);
	u64 buffers = (u64)KREAD(pipe, bufs);
	u64 buffer = buffers + (entry->slot & (size - 1)) * sizeof(struct pipe_buffer);

	return entry->slot - tail < head - tail &&
	       (u64)KREAD((struct pipe_buffer *)buffer, page) == entry->page;
}

static __always_inline void read_culprit(struct pw_folio *entry)
{
	struct piped *pipe = piped.lookup(&entry->folio);
	struct walk *walk;

	if (pipe && is_in_pipe(pipe)) {
		entry->culprit = pipe->who;
		return;
	}
	walk = walks.lookup(&entry->mapping);
	if (walk && (!walk->end_ns || bpf_ktime_get_ns() - walk->end_ns < WALK_LINGER_NS))
		entry->culprit = walk->who;
	/* else: one that was seen in an earlier pass stays */
}

/* The entry for this folio, an unused one, or none when all are taken by others. */
static __always_inline struct pw_folio *folio_entry(struct pw_failure *failure, u64 folio)
{
	u32 i;

#pragma unroll
	for (i = 0; i < PW_MAX_FOLIOS; i++) {
		struct pw_folio *entry = &failure->folios[i];

		if (i == failure->nr_folios)
			failure->nr_folios = i + 1;
		else if (entry->folio != folio)
			continue;
		return entry;
	}
	failure->folios_dropped++;
	return 0;
}

/* A folio stood in the way: keep which, where and how often. Its state is read later, once. */
static __always_inline struct pw_folio *note_folio(u64 folio, u32 seen, s32 rc)
{
	u32 tid = current_tid();
	struct pw_frame *frame = frames.lookup(&tid);
	struct pw_failure *failure;
	struct pw_folio *entry;

	if (!frame || !frame->gup_open)
		return 0;
	failure = current_failure(frame);
	if (!failure)
		return 0;
	entry = folio_entry(failure, folio);
	if (!entry)
		return 0;
	entry->folio = folio;
	entry->mapping = (u64)KREAD((struct folio *)folio, mapping);
	entry->seen = seen;
	entry->rc = rc;
	entry->attempts++;
	read_culprit(entry);
	return entry;
}
