/* What a C library would have had, as far as it takes more than a line. */
#include "sys.h"

/* The compiler may emit calls to these even in freestanding code. */
__attribute__((used)) void *memcpy(void *to, const void *from, word n)
{
    u8 *t = to;
    const u8 *f = from;
    while (n--) *t++ = *f++;
    return to;
}
__attribute__((used)) void *memset(void *to, int value, word n)
{
    u8 *t = to;
    while (n--) *t++ = (u8)value;
    return to;
}

void put(struct text *t, const char *s, word n)
{
    if (n >= t->size - t->used) {
        n = t->size - t->used - 1;
        t->full = 1;
    }
    memcpy(t->start + t->used, s, n);
    t->start[t->used += n] = 0;
}

void putn(struct text *t, i64 value)
{
    char digits[24];
    int i = 24;
    u64 v = value < 0 ? (u64)-value : (u64)value;
    do digits[--i] = (char)('0' + v % 10);
    while (v /= 10);
    if (value < 0) digits[--i] = '-';
    put(t, digits + i, (word)(24 - i));
}

long open_in(long dir, const char *path, u64 flags, u64 resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
    for (int tries = 0;; tries++) { /* EAGAIN: a rename raced with a `..` (openat2(2)) */
        long fd = sys(__NR_openat2, dir, path, &how, sizeof how);
        if (fd != -EAGAIN || tries > 100) return fd;
    }
}

long write_all(long fd, const void *data, word n)
{
    for (word done = 0; done < n;) {
        long r = sys(__NR_write, fd, (const u8 *)data + done, n - done);
        if (r == -EINTR) continue;
        if (r < 0) return r;
        done += (word)r;
    }
    return 0;
}

word length(const char *s)
{
    word n = 0;
    while (s[n]) n++;
    return n;
}
