/* System calls without a C library: the executor is one static file of some tens of KB, it starts in less than a
 * millisecond, and nothing in it allocates memory or reads the environment. */
#ifndef HUTCH_SYS_H
#define HUTCH_SYS_H
#include <asm/unistd.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#define EFD_CLOEXEC O_CLOEXEC
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/signal.h>
#include <linux/socket.h>
#include <linux/sockios.h>
#include <linux/stat.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <asm/ioctls.h>
#include <asm/statfs.h>
#include <asm/termios.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s16 i16;
typedef __s32 i32;
typedef __s64 i64;
typedef unsigned long word;

/* Buffers that few operations use lie behind everything else: what every start writes to are then three pages, and each page costs
 * each of its processes a fault. */
#define LARGE __attribute__((section(".bss.large")))

/* Not in every distribution's headers: the values are the kernel's ABI and never change. */
#ifndef FSCONFIG_SET_FLAG
#define FSCONFIG_SET_FLAG 0
#endif
#define MNT_DETACH_ 2
#define STATX_MNT_ID_ 0x1000U
#define CLOSE_RANGE_UNSHARE_ 2
#define CLOSE_RANGE_CLOEXEC_ 4
#define AT_RECURSIVE_ 0x8000
#define AT_EMPTY_PATH_ 0x1000
#define SOCK_CLOEXEC_ 02000000
#define KEYCTL_JOIN_SESSION_KEYRING_ 1
#define SA_RESTORER_ 0x04000000

#if defined(__x86_64__)
static inline long sys6(long n, word a, word b, word c, word d, word e, word f)
{
    long result;
    register word r10 __asm__("r10") = d;
    register word r8 __asm__("r8") = e;
    register word r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long sys6(long n, word a, word b, word c, word d, word e, word f)
{
    register word x8 __asm__("x8") = (word)n;
    register word x0 __asm__("x0") = a;
    register word x1 __asm__("x1") = b;
    register word x2 __asm__("x2") = c;
    register word x3 __asm__("x3") = d;
    register word x4 __asm__("x4") = e;
    register word x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return (long)x0;
}
#else
#error "hutch: the executor knows x86_64 and aarch64"
#endif
#define SYS_PICK(_0, _1, _2, _3, _4, _5, _6, name, ...) name
#define sys(...) SYS_PICK(__VA_ARGS__, S6, S5, S4, S3, S2, S1, S0)(__VA_ARGS__)
#define W(x) ((word)(x))
#define S0(n) sys6(n, 0, 0, 0, 0, 0, 0)
#define S1(n, a) sys6(n, W(a), 0, 0, 0, 0, 0)
#define S2(n, a, b) sys6(n, W(a), W(b), 0, 0, 0, 0)
#define S3(n, a, b, c) sys6(n, W(a), W(b), W(c), 0, 0, 0)
#define S4(n, a, b, c, d) sys6(n, W(a), W(b), W(c), W(d), 0, 0)
#define S5(n, a, b, c, d, e) sys6(n, W(a), W(b), W(c), W(d), W(e), 0)
#define S6(n, a, b, c, d, e, f) sys6(n, W(a), W(b), W(c), W(d), W(e), W(f))

/* The compiler may emit calls to these even in freestanding code (sys.c). */
void *memcpy(void *to, const void *from, word n);
void *memset(void *to, int value, word n);

word length(const char *s);
/* A bounded string builder; what does not fit is cut, and `full` tells. */
struct text {
    char *start;
    word used, size;
    int full;
};
void put(struct text *t, const char *s, word n);
static inline void puts_(struct text *t, const char *s) { put(t, s, length(s)); }
void putn(struct text *t, i64 value);
#define TEXT(name, bytes) \
    char name##_[bytes];  \
    struct text name = {name##_, 0, bytes, 0}; \
    name##_[0] = 0

static inline long close_(long fd) { return fd < 0 ? 0 : sys(__NR_close, fd); }
static inline long openat_(long dir, const char *path, long flags, long mode) { return sys(__NR_openat, dir, path, flags, mode); }
long open_in(long dir, const char *path, u64 flags, u64 resolve);
long write_all(long fd, const void *data, word n);
static inline long fork_(u64 flags)
{
    struct clone_args args = {.flags = flags, .exit_signal = SIGCHLD};
    return sys(__NR_clone3, &args, sizeof args);
}
_Noreturn static inline void exit_(long code)
{
    for (;;) sys(__NR_exit_group, code);
}
/* struct linux_dirent64, getdents64(2) */
struct entry {
    u64 inode, offset;
    u16 size;
    u8 type;
    char name[];
};
struct sigaction_ {
    void *handler;
    word flags, restorer, mask;
};

/* struct msghdr (recvmsg(2)), and the descriptors that come with a message (unix(7), SCM_RIGHTS). */
struct packet {
    void *name;
    u32 name_size, pad_;
    struct iovec *io;
    word io_count;
    void *control;
    word control_size;
    i32 flags, pad2_;
};
union passed {
    struct {
        word size;
        i32 level, type, fds[16];
    } head;
    u64 align[12];
};
#endif
