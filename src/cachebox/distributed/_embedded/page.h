/* System functions for the page: atomic loads and stores, waiting on a word that processes share, file locks, kinds of file
   systems; and two functions on bytes. If a system lacks one of them, the function says so or does less. */
#ifndef CACHEBOX_PAGE_H
#define CACHEBOX_PAGE_H

#include <errno.h>
#include <stdint.h>
#include <string.h>

#ifdef _MSC_VER
#include <intrin.h>
static inline uint64_t cb_load(const uint64_t *at) { uint64_t v = *(const volatile uint64_t *)at; _ReadWriteBarrier(); return v; }
static inline void cb_store(uint64_t *at, uint64_t v) { _InterlockedExchange64((volatile long long *)at, (long long)v); }
static inline uint32_t cb_load32(const uint32_t *at) { return *(const volatile uint32_t *)at; }
static inline void cb_store32(uint32_t *at, uint32_t v) { _InterlockedExchange((volatile long *)at, (long)v); }
static inline void cb_add32(uint32_t *at, uint32_t v) { _InterlockedExchangeAdd((volatile long *)at, (long)v); }
static inline void cb_add64(uint64_t *at, uint64_t v) { _InterlockedExchangeAdd64((volatile long long *)at, (long long)v); }
static inline uint8_t cb_load8(const uint8_t *at) { return *(const volatile uint8_t *)at; }
static inline void cb_store8(uint8_t *at, uint8_t v) { *(volatile uint8_t *)at = v; }
#else
static inline uint64_t cb_load(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
static inline void cb_store(uint64_t *at, uint64_t v) { __atomic_store_n(at, v, __ATOMIC_SEQ_CST); }
static inline uint32_t cb_load32(const uint32_t *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
static inline void cb_store32(uint32_t *at, uint32_t v) { __atomic_store_n(at, v, __ATOMIC_SEQ_CST); }
static inline void cb_add32(uint32_t *at, uint32_t v) { __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST); }
static inline void cb_add64(uint64_t *at, uint64_t v) { __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
static inline uint8_t cb_load8(const uint8_t *at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
static inline void cb_store8(uint8_t *at, uint8_t v) { __atomic_store_n(at, v, __ATOMIC_RELAXED); }
#endif

/* --- waiting ---------------------------------------------------------------------------------------------------------

   cb_wait returns when the word is not `expected` any more, when the seconds have passed, or spuriously. */
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline void
cb_wait(uint32_t *word, uint32_t expected, double seconds)
{
    struct timespec left;
    left.tv_sec = (time_t)seconds;
    left.tv_nsec = (long)((seconds - (double)left.tv_sec) * 1e9);
    syscall(SYS_futex, word, FUTEX_WAIT, expected, &left, NULL, 0);
}

static inline void cb_wake(uint32_t *word, int most) { syscall(SYS_futex, word, FUTEX_WAKE, most, NULL, NULL, 0); }

#elif !defined(_WIN32)
#include <time.h>

static inline void
cb_wait(uint32_t *word, uint32_t expected, double seconds)     /* polls, less and less often */
{
    double slept = 0.0, pause = 0.0001;
    while (cb_load32(word) == expected && slept < seconds) {
        struct timespec nap = {0, (long)(pause * 1e9)};
        nanosleep(&nap, NULL);
        slept += pause;
        pause = pause < 0.005 ? pause * 1.5 : 0.005;
    }
}

static inline void cb_wake(uint32_t *word, int most) { (void)word; (void)most; }

#else
static inline void cb_wait(uint32_t *word, uint32_t expected, double seconds) { (void)word; (void)expected; (void)seconds; }
static inline void cb_wake(uint32_t *word, int most) { (void)word; (void)most; }
#endif

/* --- files -----------------------------------------------------------------------------------------------------------

   cb_lock_file: 1: this handle has the lock; 0: another one has it; -1: errno. cb_remote_files: the name of a file system
   that is on a network or shared with another machine; NULL: the file system is local. */
#ifndef _WIN32
#include <sys/file.h>
#include <sys/stat.h>

static inline int
cb_lock_file(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 1;
    return errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

static inline void cb_unlock_file(int fd) { flock(fd, LOCK_UN); }

static inline int                   /* whether the file is in no folder any more */
cb_is_unlinked(int fd)
{
    struct stat found;
    return fstat(fd, &found) != 0 || found.st_nlink == 0;
}
#else
static inline int cb_lock_file(int fd) { (void)fd; errno = ENOSYS; return -1; }
static inline void cb_unlock_file(int fd) { (void)fd; }
static inline int cb_is_unlinked(int fd) { (void)fd; return 0; }
#endif

#if defined(__linux__)
#include <sys/vfs.h>

static inline const char *
cb_remote_files(int fd)
{
    struct statfs found;
    if (fstatfs(fd, &found) != 0) return NULL;
    switch ((uint32_t)found.f_type) {
    case 0x6969: return "NFS";
    case 0x517B: case 0xFF534D42: case 0xFE534D42: return "SMB";
    case 0x01021997: return "9P";
    case 0x65735546: return "FUSE";
    case 0x6A656A63: return "virtiofs";
    case 0x0BD00BD0: return "Lustre";
    case 0x00C36400: return "Ceph";
    case 0x01161970: return "GFS2";
    case 0x7461636F: return "OCFS2";
    case 0x5346414F: case 0x6B414653: return "AFS";
    case 0x73757245: return "Coda";
    case 0x47504653: return "GPFS";
    case 0x19830326: return "BeeGFS";
    default: return NULL;
    }
}
#elif defined(__APPLE__)
#include <sys/mount.h>
#include <sys/param.h>

static inline const char *
cb_remote_files(int fd)
{
    static const char *const names[] = {"nfs", "smbfs", "afpfs", "webdav", "macfuse", "osxfuse", "virtiofs", "9p"};
    struct statfs found;
    if (fstatfs(fd, &found) != 0) return NULL;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strcmp(found.f_fstypename, names[i]) == 0) return names[i];
    return NULL;
}
#else
static inline const char *cb_remote_files(int fd) { (void)fd; return NULL; }
#endif

/* --- bytes ----------------------------------------------------------------------------------------------------------- */

#define CB_ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define CB_ROUND(a, b, c, d) do { \
    a += b; b = CB_ROTATE(b, 13); b ^= a; a = CB_ROTATE(a, 32); c += d; d = CB_ROTATE(d, 16); d ^= c; \
    a += d; d = CB_ROTATE(d, 21); d ^= a; c += b; b = CB_ROTATE(b, 17); b ^= c; c = CB_ROTATE(c, 32); \
} while (0)

/* SipHash-1-3, like CPython's hash of str: only with the secret can somebody make keys that collide. */
static inline uint64_t
cb_siphash(const uint8_t *secret, const uint8_t *data, size_t size)
{
    uint64_t k0, k1, word, a, b, c, d;
    size_t left = size;
    memcpy(&k0, secret, 8);
    memcpy(&k1, secret + 8, 8);
    a = k0 ^ 0x736f6d6570736575ULL;
    b = k1 ^ 0x646f72616e646f6dULL;
    c = k0 ^ 0x6c7967656e657261ULL;
    d = k1 ^ 0x7465646279746573ULL;
    for (; left >= 8; data += 8, left -= 8) {
        memcpy(&word, data, 8);
        d ^= word;
        CB_ROUND(a, b, c, d);
        a ^= word;
    }
    word = (uint64_t)size << 56;
    for (size_t i = 0; i < left; i++) word |= (uint64_t)data[i] << (8 * i);
    d ^= word;
    CB_ROUND(a, b, c, d);
    a ^= word;
    c ^= 0xff;
    CB_ROUND(a, b, c, d);
    CB_ROUND(a, b, c, d);
    CB_ROUND(a, b, c, d);
    return a ^ b ^ c ^ d;
}

static inline uint32_t
cb_word(const uint8_t *at, int big)
{
    return big ? (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]
               : (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

static inline void
cb_add_to_sum(uint32_t *sum, const uint8_t *data, size_t size, int big)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        sum[0] += cb_word(data + i, big) + sum[1];
        sum[1] += cb_word(data + i + 4, big) + sum[0];
    }
}

/* The number of complete frames at the start of SQLite's log. `sums` gets the two checksums at the end of frame `at`. */
static inline size_t
cb_whole_frames(const uint8_t *log, size_t size, size_t at, uint32_t *sums)
{
    uint32_t sum[2] = {0, 0}, page;
    size_t n = 0;
    int big;
    if (size < 32) return 0;
    big = (int)(cb_word(log, 1) & 1);
    if ((cb_word(log, 1) & ~1u) != 0x377f0682u) return 0;
    page = cb_word(log + 8, 1);
    if (page < 512 || page > 65536 || (page & (page - 1))) return 0;
    cb_add_to_sum(sum, log, 24, big);
    if (sum[0] != cb_word(log + 24, 1) || sum[1] != cb_word(log + 28, 1)) return 0;
    for (const uint8_t *frame = log + 32; frame + 24 + page <= log + size; frame += 24 + page) {
        if (memcmp(frame + 8, log + 16, 8) != 0) break;
        cb_add_to_sum(sum, frame, 8, big);
        cb_add_to_sum(sum, frame + 24, page, big);
        if (sum[0] != cb_word(frame + 16, 1) || sum[1] != cb_word(frame + 20, 1)) break;
        n++;
        if (n == at) { sums[0] = sum[0]; sums[1] = sum[1]; }
    }
    return n;
}
#endif
