/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pipes.c - pages put into a pipe: each holds a plain reference until somebody reads it, for ever
 * if nobody does. What is remembered proves nothing by itself; is_in_pipe() looks again.
 */

static __always_inline void note_piped(u64 pipe_address, u64 page)
{
	struct pipe_inode_info *pipe = (void *)pipe_address;
	u64 folio = head_of(page);
	struct piped entry = {};

	fill_culprit(&entry.who, PW_HOLDER_PIPE);
	entry.pipe = pipe_address;
	entry.page = page;
	entry.slot = KREAD(pipe, head);
	piped.update(&folio, &entry);
}

#ifdef SYM_vmsplice
ENTRY(vmsplice)	/* add_to_pipe(pipe, buf): vmsplice(2), FUSE */
{
	struct pipe_buffer *buffer = (void *)plain(ARG(vmsplice, 1));

	note_piped(plain(ARG(vmsplice, 0)), (u64)KREAD(buffer, page));
	return 0;
}
#endif

#ifdef SYM_splice
/* splice_folio_into_pipe(pipe, folio, offset, size), v6.5: splice(2) and sendfile(2). Only memory
 * that a VM may be made of: a file server must not pay. */
ENTRY(splice)
{
	struct folio *folio = (void *)plain(ARG(splice, 1));
	u64 mapping = (u64)KREAD(folio, mapping);
	u64 offset = ARG(splice, 2) & (((u64)PAGE_SIZE << folio_order(folio)) - 1);

	if (mapping & 3 || (u64)KREAD((struct address_space *)mapping, a_ops) != ADDR_shmem_aops)
		return 0;
	note_piped(plain(ARG(splice, 0)), (u64)folio + (offset >> PAGE_SHIFT) * sizeof(struct page));
	return 0;
}
#endif
