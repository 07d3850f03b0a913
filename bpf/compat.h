/* SPDX-License-Identifier: GPL-2.0 */
/*
 * compat.h - every difference between kernels, and nothing else.
 *
 * The structures used here (struct folio, struct task_struct, ...) are generated at start from
 * the running kernel's BTF with just the fields named in pinwatch/host/compat.py; HAS_x__y is
 * defined when the kernel has the field, KERNEL_<name> carries an enumerator's value, ADDR_<name>
 * a symbol's address and NARGS_<hook> the number of arguments of the hooked function.
 */

/* include/linux/sched.h, the same on 5.13 .. 7.2. The first is set by memalloc_pin_save() only,
 * that is inside a long-term pin; the second while the same thread reclaims or compacts. */
#define PF_MEMALLOC_PIN 0x10000000
#define PF_MEMALLOC 0x00000800

#define PAGE_SHIFT 12
#define RLIMIT_MEMLOCK 8
#define EAGAIN 11
#define ENOMEM 12
#define EBUSY 16
#define EINVAL 22

/* mm/gup.c before v6.3 has FOLL_* as macros, which BTF does not carry; 2c2241081f7d ("mm/gup:
 * move private gup FOLL_ flags to internal.h") made them an enum and moved the bit. May go with
 * 6.1. A wrong mask would match FOLL_TOUCH and flood. */
#ifdef KERNEL_FOLL_LONGTERM
#define FOLL_LONGTERM KERNEL_FOLL_LONGTERM
#else
#define FOLL_LONGTERM 0x10000
#endif

/* ebc1baf5c9b4 ("mm: free up a word in the first tail page") put the order into _flags_1; before,
 * it is a field. May go with 6.1. */
static __always_inline u32 large_folio_order(struct folio *folio)
{
#ifdef HAS_folio__folio_order
	return KREAD(folio, _folio_order);
#else
	return KREAD(folio, _flags_1) & 0xff;
#endif
}

/*
 * Of a tail page, its head: the folio. A folio is its own. Without a branch, which at the end of a
 * loop makes the compiler lay that out in a way that 6.1's verifier refuses.
 */
static __always_inline u64 head_of(u64 page)
{
#ifdef HAS_page_compound_head
	u64 head = KREAD((struct page *)page, compound_head), is_tail = -(head & 1);

	asm volatile("" : "+r"(is_tail));
	return ((head - 1) & is_tail) | (page & ~is_tail);
#else
	return page;
#endif
}

/* v6.0 renamed migratepage to migrate_folio. */
static __always_inline u64 migrate_operation(u64 a_ops)
{
#ifdef HAS_address_space_operations_migrate_folio
	return (u64)KREAD((struct address_space_operations *)a_ops, migrate_folio);
#else
	return a_ops;	/* not known: some */
#endif
}

static __always_inline u64 folio_flags(struct folio *folio)
{
	return KREAD(folio, flags);
}

static __always_inline u32 folio_order(struct folio *folio)
{
	if (!(folio_flags(folio) & (1ULL << KERNEL_PG_head)))
		return 0;
	return large_folio_order(folio);
}

#ifndef HAS_folio__large_mapcount
/* Before "mm: track mapcount of large folios in single value" (2024) a large folio's mapcount is
 * the sum over its pages; a PMD mapping of file memory raises every page's count as well. May go
 * with 6.6. */
static __always_inline s64 pages_mapcount(struct folio *folio, u32 order)
{
	s64 sum = 0;
	u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < 512; i++) {
		struct page *page = (void *)((u64)folio + i * sizeof(struct page));

		if (i >> order)
			break;
		sum += (s32)KREAD(page, _mapcount) + 1;
	}
	return sum;
}

static __always_inline s64 large_folio_mapcount(struct folio *folio, u32 order)
{
	s64 pages = pages_mapcount(folio, order);
	s64 entire = (s32)KREAD(folio, _total_mapcount) + 1;
	bool anon = KREAD(folio, mapping) & 1;

	/* Each PMD mapping counts once; file memory already has it in all of its pages. */
	return anon ? pages + entire : pages - entire * ((1 << order) - 1);
}
#else
static __always_inline s64 large_folio_mapcount(struct folio *folio, u32 order)
{
	return (s32)KREAD(folio, _large_mapcount) + 1;
}
#endif

static __always_inline s64 folio_mapcount(struct folio *folio, u32 order)
{
	if (order)
		return large_folio_mapcount(folio, order);
	return (s32)KREAD(folio, _mapcount) + 1;
}

static __always_inline u32 folio_page_type(struct folio *folio, u32 order)
{
#ifdef HAS_folio__folio_dtor
	return order ? KREAD(folio, _folio_dtor) : 0;
#else
	return KREAD(folio, _mapcount);
#endif
}

/* The per-CPU address of a per-CPU symbol's value (SHIFT_PERCPU_PTR). */
static __always_inline u64 per_cpu_address(u64 symbol, u32 cpu)
{
#ifdef ADDR___per_cpu_offset
	return symbol + KREAD_AT(u64, ADDR___per_cpu_offset + cpu * sizeof(u64));
#else
	return 0;
#endif
}

/* x86-64: struct page lives in one virtual array, whose base moves with KASLR. */
static __always_inline u64 folio_pfn(struct folio *folio)
{
#ifdef ADDR_vmemmap_base
	return ((u64)folio - KREAD_AT(u64, ADDR_vmemmap_base)) / sizeof(struct page);
#else
	return 0;
#endif
}

/*
 * The bits of the folio's pageblock, as get_pfnblock_flags_mask() finds them: section by pfn,
 * then PAGEBLOCK_BITS bits for each block. x86-64 SPARSEMEM_EXTREME: 2^15 pages a section,
 * 2^9 a block. Nothing is read where any of it is unknown; all ones then say so.
 */
#define SECTION_PFN_SHIFT 15
#define PAGEBLOCK_ORDER 9
#define PAGEBLOCK_UNKNOWN 0xffffffff

static __always_inline u32 pageblock_bits(u64 pfn)
{
#if defined(ADDR_mem_section) && defined(PAGEBLOCK_BITS)
	u64 nr = pfn >> SECTION_PFN_SHIFT;
	u32 per_root = (1 << PAGE_SHIFT) / sizeof(struct mem_section);
	u32 bit = ((pfn & ((1 << SECTION_PFN_SHIFT) - 1)) >> PAGEBLOCK_ORDER) * PAGEBLOCK_BITS;
	u64 roots = KREAD_AT(u64, ADDR_mem_section);
	u64 root, usage, word;

	if (!pfn || !roots)
		return PAGEBLOCK_UNKNOWN;
	root = KREAD_AT(u64, roots + nr / per_root * sizeof(u64));
	if (!root)
		return PAGEBLOCK_UNKNOWN;
	usage = KREAD((struct mem_section *)(root + nr % per_root * sizeof(struct mem_section)), usage);
	if (!usage)
		return PAGEBLOCK_UNKNOWN;
	word = KREAD_AT(u64, (u64)&((struct mem_section_usage *)usage)->pageblock_flags + bit / 64 * 8);
	return (word >> (bit % 64)) & ((1 << PAGEBLOCK_BITS) - 1);
#else
	return PAGEBLOCK_UNKNOWN;
#endif
}
