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
	PW_RECORD_TASK = 1,		/* the first long-term pin operation of a process ended */
	PW_RECORD_PIN_FAILED = 2,	/* one pin operation that failed */
	PW_RECORD_MODULE = 3,		/* a module was loaded: late hooks may attach */
	PW_RECORD_PIN_SLOW = 4,		/* one that succeeded, but see struct pw_limits */
	PW_RECORD_HINT = 5,		/* a process said something of its memory */
};

enum pw_source {
	PW_SOURCE_OTHER = 0,		/* long-term pin outside every consumer we know */
	PW_SOURCE_VFIO_TYPE1 = 1,	/* VFIO_IOMMU_MAP_DMA */
	PW_SOURCE_IOMMUFD = 2,		/* IOMMU_IOAS_MAP, and attaching a device to an IOAS */
	PW_SOURCE_IO_URING = 3,		/* IORING_REGISTER_BUFFERS, memory regions */
	PW_SOURCE_RDMA = 4,		/* memory regions, queues in user memory */
	PW_SOURCE_AF_XDP = 5,		/* XDP_UMEM_REG */
	PW_SOURCE_VHOST_VDPA = 6,	/* VHOST_IOTLB_UPDATE */
	PW_SOURCE_VDUSE = 7,		/* VDUSE_IOTLB_REG_UMEM */
	PW_SOURCE_UDMABUF = 8,		/* UDMABUF_CREATE, UDMABUF_CREATE_LIST */
	PW_SOURCE_SEV = 9,		/* KVM_MEMORY_ENCRYPT_REG_REGION */
	PW_SOURCE_COUNT = 10,
};

/* Which kernel function reported the folio. */
enum pw_seen {
	PW_SEEN_MOVE = 1,	/* unmapped or not, it was put back after a failed move */
	PW_SEEN_LOCK = 2,	/* given up before the folio lock was had */
	PW_SEEN_SPLIT = 3,	/* split_huge_page refused; rc is its errno */
	PW_SEEN_LEFT = 4,	/* first on the list when the pin gave up; not reported before */
};

/* What takes references on folios, locks them or takes them off the LRU. */
enum pw_holder {
	PW_HOLDER_NONE = 0,
	PW_HOLDER_DROP_CACHES = 1,
	PW_HOLDER_FADVISE = 2,		/* POSIX_FADV_DONTNEED and other invalidation of a file */
	PW_HOLDER_RECLAIM = 3,
	PW_HOLDER_COMPACTION = 4,
	PW_HOLDER_KHUGEPAGED = 5,
	PW_HOLDER_KSMD = 6,
	PW_HOLDER_DAMON = 7,
	PW_HOLDER_NUMA_BALANCING = 8,
	PW_HOLDER_MEMORY_OFFLINE = 9,
	PW_HOLDER_CONTIG_ALLOC = 10,	/* CMA, gigantic pages: alloc_contig_range */
	PW_HOLDER_MOVE_PAGES = 11,	/* move_pages(2), migrate_pages(2), mbind(2), cpusets */
	PW_HOLDER_MEMORY_FAILURE = 12,	/* a poisoned page, or one taken offline */
	PW_HOLDER_PROCESS_VM = 13,	/* process_vm_readv(2), process_vm_writev(2) */
	PW_HOLDER_PIPE = 14,		/* vmsplice(2), splice(2): until the pipe is read */
	PW_HOLDER_PIN = 15,		/* the newest long-term pin operation */
	PW_HOLDER_PIN_BEFORE = 16,	/* the one before it, of another thread */
	PW_HOLDER_COUNT = 17,
};

/* Where a long-term pin waits. */
enum pw_wait {
	PW_WAIT_LRU_DRAIN = 0,	/* for all CPUs to empty their LRU batches */
	PW_WAIT_WRITEBACK = 1,
	PW_WAIT_FOLIO_LOCK = 2,
	PW_WAIT_COMPACTION = 3,	/* its own, for a destination */
	PW_WAIT_COUNT = 4,
};

/* The system call by which a process says something of its memory. */
enum pw_call {
	PW_CALL_MADVISE = 0,
	PW_CALL_MMAP = 1,
	PW_CALL_MLOCK = 2,
	PW_CALL_MLOCKALL = 3,
	PW_CALL_PRCTL = 4,		/* PR_SET_THP_DISABLE */
	PW_CALL_MEMFD_CREATE = 5,
	PW_CALL_MBIND = 6,
	PW_CALL_SET_MEMPOLICY = 7,
	PW_CALL_COUNT = 8,
};

#define PW_COMM_LEN 16
#define PW_CMDLINE_LEN 4096
#define PW_MODULE_LEN 56
#define PW_AREA_LEN 64
#define PW_MAX_FOLIOS 4
#define PW_STACK_DEPTH 16

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

struct pw_hint_record {
	struct pw_head head;
	__u64 address;
	__u64 length;		/* bytes; 0: all of the process, or of a file that has no size yet */
	__u64 resident_pages;	/* of the process, when the call returned */
	__u64 pinned_pages;	/* that VFIO and iommufd had pinned for it by then */
	__s64 rc;
	__u32 call;		/* enum pw_call */
	__u32 value;		/* advice, flags or mode, as the caller gave them */
};

struct pw_module_record {
	struct pw_head head;
	char name[PW_MODULE_LEN];
};

/* The newest activity of a kind: it may still go on. */
struct pw_window {
	__u64 start_ns;		/* 0: never seen */
	__u64 end_ns;		/* 0: it goes on */
	__u64 first_pfn;	/* the frames it works on, where it says so */
	__u64 last_pfn;		/* one past; 0: all memory, or not known */
	__u64 value;		/* drop_caches: what was written; process_vm: the target's pid */
	__u32 tgid;
	__u32 tid;
	__u32 parent_tgid;	/* drop_caches only: the shell or job behind an echo */
	__u32 pad;
	char comm[PW_COMM_LEN];
	char parent_comm[PW_COMM_LEN];
};

/* Who was seen at this very folio, or at its mapping: proof, not coincidence. */
struct pw_culprit {
	__u64 start_ns;		/* of the activity */
	__u32 holder;		/* enum pw_holder, 0: nobody */
	__u32 tgid;
	__u32 tid;
	__u32 pad;
	char comm[PW_COMM_LEN];
};

/* The VMA that GUP refused. */
struct pw_vma {
	__u64 start;
	__u64 end;
	__u64 flags;		/* vm_flags */
	__u64 a_ops;		/* of the file's mapping, 0: no file */
	__u64 s_magic;
	__s32 rc;		/* of check_vma_flags; 0: it refused none */
	__u32 pad;
};

/* The last state of one folio that stood in the way. */
struct pw_folio {
	__u64 folio;		/* address, identity only */
	__u64 pfn;		/* 0: not known on this kernel */
	__u64 flags;		/* folio->flags */
	__u64 mapping;		/* folio->mapping, low bits included */
	__u64 a_ops;		/* address of mapping->a_ops, 0 for anonymous memory */
	__u64 s_magic;		/* of the file system the mapping belongs to */
	__u64 migrate_op;	/* a_ops->migrate_folio; 0 with a_ops: the file system has none */
	__u64 index;
	struct pw_culprit culprit;
	__s64 mapcount;
	__s32 refcount;
	__s32 pincount;		/* -1: small folio, pins are inside the refcount */
	__s32 rc;		/* errno of the function that refused, 0 when it returns none */
	__u32 order;
	__u32 attempts;		/* how often this folio was reported */
	__u32 seen;		/* enum pw_seen */
	__u32 left;		/* 1: still there when the pin gave up; else it moved later */
	__u32 pageblock;	/* raw pageblock bits: migratetype, isolate */
	__u32 page_type;	/* hugetlb and the like, raw */
	__u32 is_read;		/* 0: only folio, mapping, seen, rc and attempts are known */
};

/* What a failing pin operation left behind. Kept apart from struct pw_frame: success never
 * touches it. */
struct pw_failure {
	struct pw_vma vma;
	__u64 batch_folio;	/* a folio that is in a CPU's LRU batch */
	__u64 dst_gfp;		/* of the last destination allocation that failed */
	__u32 dst_order;
	__u32 dst_failed;	/* failed destination allocations */
	__u32 split_failed;
	__u32 split_ok;
	__s32 split_rc;		/* last non-zero one */
	__u32 nr_folios;	/* entries used */
	__u32 folios_dropped;	/* more failing folios than entries */
	__u32 alloc_failed;	/* other allocations that failed: faulting in, bookkeeping */
	__u32 memcg_oom;	/* its memory cgroup found nothing to reclaim */
	__u32 lru_batch;	/* 1 + number of the batch that has batch_folio, 0: none */
	__u32 lru_batch_cpu;
	__u32 lru_batch_refs;	/* how often batch_folio is in it */
	struct pw_folio folios[PW_MAX_FOLIOS];
};

/* One pin operation: what its consumer's caller sees as one, else one GUP call. */
struct pw_frame {
	__u64 start_ns;
	__u64 task_start_ns;
	__u64 site;		/* the function that stands for the operation, 0: GUP itself */
	__u64 vaddr;
	__u64 iova;
	__u64 length;		/* bytes asked for */
	__u64 span;		/* pages they touch, where GUP's fast path may pin unseen */
	__u64 flags;		/* of the consumer's request */
	__u64 pinned;		/* pages GUP returned */
	__u64 foll_pinned;	/* pages GUP pinned over all rounds: what nr_foll_pin_acquired counts */
	__u64 migrated;		/* base pages, migrate_reason longterm_pin only */
	__u64 migrate_failed;
	__u64 gup_pages;	/* asked for in the GUP call that is open, or was last */
	__u64 vma_flags;	/* of the VMA that GUP looked up last */
	__u64 wait_start_ns;
	__u64 wait_ns[PW_WAIT_COUNT];
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
	__u32 gup_short;	/* pages missing from the last GUP call */
	__u32 gup_loops;	/* VMAs looked up in the GUP call that is open: it starts again */
	__u32 max_loops;	/* the most of all GUP calls */
	__u32 isolate_failed;	/* times that no unpinnable folio could be isolated */
	__u32 collect_failed;	/* the last time it was so */
	__u32 in_place;		/* GUP calls that returned pages which may not be pinned */
	__u32 waiting;		/* 1 + enum pw_wait while it waits */
	__u32 tgid;
	__u32 counted;		/* its pages were, by another operation */
};

/* RLIMIT_MEMLOCK as it stands when the operation returns. */
struct pw_memlock {
	__u64 limit_bytes;
	__u64 locked_pages;	/* mm->locked_vm */
	__u64 pinned_pages;	/* mm->pinned_vm */
	__u64 user_pages;	/* locked_vm of the user: io_uring, AF_XDP, iommufd */
	__u64 cap_effective;
};

struct pw_pin_record {
	struct pw_head head;
	struct pw_frame frame;
	struct pw_memlock memlock;
	__s64 rc;		/* what user space got */
	struct pw_failure failure;
	struct pw_window windows[PW_HOLDER_COUNT];
	__u64 stack[PW_STACK_DEPTH];	/* of the caller, for PW_SOURCE_OTHER; 0 ends it */
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

/* What is worth a record although the pin succeeded. User space writes it. */
struct pw_limits {
	__u64 slow_ns;
	__u64 slow_loops;
};

/* Host-wide sums that /proc/vmstat counts too. */
enum pw_witness {
	PW_WITNESS_THP_MIGRATE_SUCCESS = 0,
	PW_WITNESS_THP_MIGRATE_FAIL = 1,
	PW_WITNESS_THP_MIGRATE_SPLIT = 2,
	PW_WITNESS_THP_SPLIT = 3,
	PW_WITNESS_THP_SPLIT_FAILED = 4,
	PW_WITNESS_FOLL_PIN_ACQUIRED = 5,
	PW_WITNESS_COUNT = 6,
};

/* Base pages by migrate_reason, of the whole host. */
#define PW_MIGRATE_REASONS 16

struct pw_migrations {
	__u64 succeeded;
	__u64 failed;
};

/* Huge pages of the whole host that could not be split, by errno. */
enum pw_split_error {
	PW_SPLIT_ERROR_OTHER = 0,
	PW_SPLIT_ERROR_EAGAIN = 1,
	PW_SPLIT_ERROR_EBUSY = 2,
	PW_SPLIT_ERROR_EINVAL = 3,
	PW_SPLIT_ERROR_ENOMEM = 4,
	PW_SPLIT_ERROR_COUNT = 5,
};

struct pw_area {
	char name[PW_AREA_LEN];	/* of a CMA area */
};

/* What the kernel side could not deliver. */
enum pw_loss {
	PW_LOSS_RING_FULL = 0,
	PW_LOSS_FRAMES_FULL = 1,
	PW_LOSS_FAILURES_FULL = 2,
	PW_LOSS_TOTALS_FULL = 3,
	PW_LOSS_FRAME_STALE = 4,	/* the end of an operation was not seen */
	PW_LOSS_READ_FAULT = 5,
	PW_LOSS_HINTS_FULL = 6,		/* a process gave more hints than it is asked for */
	PW_LOSS_COUNT = 7,
};
