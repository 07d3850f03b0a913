/* SPDX-License-Identifier: GPL-2.0 */
/*
 * pinwatch.h - what leaves the kernel. Declared once, here.
 *
 * pinwatch/abi/layout.py mirrors every structure and enumerator; the loader emits a
 * _Static_assert for each offset, size and value, so a difference stops the start, not the
 * numbers. Only __uN types, explicit padding, no bit fields, largest members first.
 *
 * Everything here is a fact the kernel stated. What it means is decided in Python, where an
 * old recording can be read again with a better rule.
 */

/* ---- records: one ring buffer, told apart by head.kind ------------------------------------ */

enum pw_record {
	PW_RECORD_TASK = 1,		/* first long-term pin operation of a process */
	PW_RECORD_PIN_FAILED = 2,	/* one pin operation that failed */
	PW_RECORD_MODULE = 3,		/* a module was loaded: late hooks may attach */
	PW_RECORD_HOLDER = 4,		/* something that takes references began or ended */
};

enum pw_source {
	PW_SOURCE_OTHER = 0,		/* long-term pin outside every consumer we know */
	PW_SOURCE_VFIO_TYPE1 = 1,	/* VFIO_IOMMU_MAP_DMA */
	PW_SOURCE_COUNT = 2,
};

/* Which kernel function reported the folio. */
enum pw_seen {
	PW_SEEN_MOVE = 1,	/* unmapped or not, it was put back after a failed move */
	PW_SEEN_LOCK = 2,	/* given up before the folio lock was had */
	PW_SEEN_SPLIT = 3,	/* split_huge_page refused; rc is its errno */
	PW_SEEN_LEFT = 4,	/* first on the list when the pin gave up; not reported before */
};

enum pw_holder {
	PW_HOLDER_DROP_CACHES = 1,
};

#define PW_COMM_LEN 16
#define PW_CMDLINE_LEN 4096
#define PW_MODULE_LEN 56
#define PW_MAX_FOLIOS 4

struct pw_head {
	__u32 kind;		/* enum pw_record */
	__u32 tgid;
	__u32 tid;
	__u32 uid;
	__u64 time_ns;		/* CLOCK_MONOTONIC, when the record was made */
	__u64 task_start_ns;	/* CLOCK_BOOTTIME start of the thread group: tells a reused tgid */
	__u64 cgroup_id;
	char comm[PW_COMM_LEN];	/* of the thread */
};

struct pw_cmdline {
	__u32 len;		/* bytes used; PW_CMDLINE_LEN means cut */
	__u32 error;		/* positive errno when it could not be read */
	char text[PW_CMDLINE_LEN];	/* arguments separated by NUL */
};

struct pw_task_record {
	struct pw_head head;
	struct pw_cmdline cmdline;
};

struct pw_module_record {
	struct pw_head head;
	char name[PW_MODULE_LEN];
};

/* Its beginning and its end carry the same start_ns and tid. */
struct pw_holder_record {
	struct pw_head head;
	__u64 start_ns;
	__u64 end_ns;		/* 0: it begins */
	__u32 holder;		/* enum pw_holder */
	__u32 value;		/* what was written, for drop_caches */
	__u32 parent_tgid;
	__u32 pad;
	char parent_comm[PW_COMM_LEN];
};

/* The last state of one folio that stood in the way. */
struct pw_folio {
	__u64 folio;		/* address, identity only */
	__u64 pfn;		/* 0: not known on this kernel */
	__u64 flags;		/* folio->flags */
	__u64 mapping;		/* folio->mapping, low bits included */
	__u64 a_ops;		/* address of mapping->a_ops, 0 for anonymous memory */
	__u64 s_magic;		/* of the file system the mapping belongs to */
	__u64 index;
	__u64 walk_start_ns;	/* start_ns of the holder that walks this mapping now, 0: none */
	__s64 mapcount;
	__s32 refcount;
	__s32 pincount;		/* -1: small folio, pins are inside the refcount */
	__s32 rc;		/* errno of the function that refused, 0 when it returns none */
	__u32 order;
	__u32 attempts;		/* how often this folio was reported */
	__u32 seen;		/* enum pw_seen */
	__u32 left;		/* 1: still there when the pin gave up; else it moved later */
	__u32 walker_tid;	/* of that holder */
	__u32 pageblock;	/* raw pageblock bits: migratetype, isolate */
	__u32 page_type;	/* hugetlb and the like, raw */
	__u32 is_read;		/* 0: only folio, mapping, seen, rc and attempts are known */
	__u32 pad;
};

/* What a failing pin operation left behind. Kept apart from struct pw_frame: success never
 * touches it. */
struct pw_failure {
	__u64 dst_gfp;		/* of the last destination allocation that failed */
	__u32 dst_order;
	__u32 dst_failed;	/* failed destination allocations */
	__u32 split_failed;
	__u32 split_ok;
	__s32 split_rc;		/* last non-zero one */
	__u32 nr_folios;	/* entries used */
	__u32 folios_dropped;	/* more failing folios than entries */
	__u32 pad;
	struct pw_folio folios[PW_MAX_FOLIOS];
};

/* One pin operation: a VFIO map from ioctl entry to return, else one GUP call. */
struct pw_frame {
	__u64 start_ns;
	__u64 vaddr;
	__u64 iova;
	__u64 length;		/* bytes asked for */
	__u64 flags;		/* of the consumer's request */
	__u64 pinned;		/* pages GUP returned */
	__u64 foll_pinned;	/* pages GUP pinned over all rounds: what nr_foll_pin_acquired counts */
	__u64 migrated;		/* base pages, migrate_reason longterm_pin only */
	__u64 migrate_failed;
	__u64 gup_pages;	/* asked for in the GUP call that is open */
	__u32 thp_migrated;
	__u32 thp_failed;
	__u32 thp_split;
	__u32 gup_calls;
	__u32 rounds;		/* migrate_pages calls */
	__s32 gup_rc;		/* of the last GUP call that failed */
	__u32 source;		/* enum pw_source */
	__u32 gup_open;		/* inside __gup_longterm_locked with FOLL_LONGTERM */
	__u32 gup_rounds;	/* migrate_pages calls inside the GUP call that is open */
	__u32 migrating;	/* inside migrate_pages(MR_LONGTERM_PIN) */
	__u32 failing;		/* a struct pw_failure exists */
	__u32 pad;
};

/* RLIMIT_MEMLOCK as it stands when the operation returns. */
struct pw_memlock {
	__u64 limit_bytes;
	__u64 locked_pages;	/* mm->locked_vm */
	__u64 pinned_pages;	/* mm->pinned_vm */
	__u64 cap_effective;
};

struct pw_pin_record {
	struct pw_head head;
	struct pw_frame frame;
	struct pw_memlock memlock;
	__s64 rc;		/* what user space got */
	struct pw_failure failure;
	struct pw_cmdline cmdline;
};

/* ---- maps read by user space -------------------------------------------------------------- */

struct pw_total_key {
	__u64 task_start_ns;
	__u32 tgid;
	__u32 source;
};

struct pw_total {
	__u64 pins;
	__u64 failures;
	__u64 pages;
	__u64 migrated;
	__u64 migrate_failed;
};

/* Duration histogram: slot n counts operations of at most 2^n ns and more than 2^(n-1). */
#define PW_DURATION_SLOTS 40

enum pw_result {
	PW_RESULT_OK = 0,
	PW_RESULT_FAILED = 1,
	PW_RESULT_COUNT = 2,
};

struct pw_duration {
	__u64 sum_ns;
	__u64 slots[PW_DURATION_SLOTS];
};

/* Host-wide sums that /proc/vmstat counts too. */
enum pw_witness {
	PW_WITNESS_MIGRATE_SUCCESS = 0,
	PW_WITNESS_MIGRATE_FAIL = 1,
	PW_WITNESS_THP_MIGRATE_SUCCESS = 2,
	PW_WITNESS_THP_MIGRATE_FAIL = 3,
	PW_WITNESS_THP_MIGRATE_SPLIT = 4,
	PW_WITNESS_THP_SPLIT = 5,
	PW_WITNESS_THP_SPLIT_FAILED = 6,
	PW_WITNESS_FOLL_PIN_ACQUIRED = 7,
	PW_WITNESS_COUNT = 8,
};

/* What the kernel side could not deliver. */
enum pw_loss {
	PW_LOSS_RING_FULL = 0,
	PW_LOSS_FRAMES_FULL = 1,
	PW_LOSS_FAILURES_FULL = 2,
	PW_LOSS_TOTALS_FULL = 3,
	PW_LOSS_FRAME_STALE = 4,	/* an operation began before the last one's end was seen */
	PW_LOSS_READ_FAULT = 5,
	PW_LOSS_COUNT = 6,
};
