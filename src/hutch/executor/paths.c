/* Paths that a container controls are resolved inside its root by the kernel (openat2(2), RESOLVE_IN_ROOT), and what was
 * resolved is used by descriptor: a path checked first and used later is how container escapes happen. */
#include "executor.h"

long in_root(long root, const char *path, u64 flags, u64 resolve)
{
    return open_in(root, *path ? path : ".", O_PATH | flags, IN_ROOT | resolve);
}

/* Make every missing directory of `path` below `root`, and at its end a directory, or an empty file. Each component is
 * created with mkdirat on a descriptor that was resolved inside the root. A dangling symbolic link is followed, inside
 * the root, to what it names. Returns an O_PATH descriptor of the end. */
long make_path(long root, const char *path, int file, u64 resolve)
{
    LARGE static char target[PATH_SIZE], prefix[PATH_SIZE];
    word n = length(path);
    if (n >= PATH_SIZE) return -ENAMETOOLONG;
    memcpy(target, path, n + 1);
    for (int links = 0; links < 40; links++) {
        long fd = in_root(root, target, 0, resolve), parent;
        if (fd != -ENOENT) return fd;
        parent = in_root(root, "/", 0, 0);
        n = 0;
        for (;;) {
            word start, end;
            while (target[n] == '/') n++;
            if (parent < 0) return parent;
            if (!target[n]) return parent;
            for (start = n, end = n; target[end] && target[end] != '/'; end++);
            int last = 1;
            for (word i = end; target[i]; i++)
                if (target[i] != '/') last = 0;
            memcpy(prefix, target, end);
            prefix[end] = 0;
            fd = in_root(root, prefix, 0, resolve);
            if (fd == -ENOENT) {
                char name[256];
                if (end - start > 255) {
                    close_(parent);
                    return -ENAMETOOLONG;
                }
                memcpy(name, target + start, end - start);
                name[end - start] = 0;
                long made = last && file ? sys(__NR_mknodat, parent, name, S_IFREG | 0644, 0)
                                         : sys(__NR_mkdirat, parent, name, 0755);
                if (made == -EEXIST) { /* a link to nothing yet: go on with what it names */
                    LARGE static char rest[PATH_SIZE], link[PATH_SIZE];
                    long got = sys(__NR_readlinkat, parent, name, link, PATH_SIZE - 1);
                    close_(parent);
                    if (got < 0 || (resolve & RESOLVE_NO_SYMLINKS)) return -ELOOP;
                    link[got] = 0;
                    memcpy(rest, target + end, length(target + end) + 1);
                    struct text t = {target, link[0] == '/' ? 0 : start, PATH_SIZE, 0};
                    puts_(&t, link);
                    puts_(&t, rest);
                    if (t.full) return -ENAMETOOLONG;
                    break;
                }
                if (made < 0) {
                    close_(parent);
                    return made;
                }
                fd = in_root(root, prefix, 0, resolve);
            }
            close_(parent);
            parent = fd;
            n = end;
        }
    }
    return -ELOOP;
}

int dots(const char *name) { return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])); }

enum { RESUMED = 512 }; /* levels of which the place is remembered where reading goes on; below them it begins again */

/* Remove a tree without following a link, in constant memory whatever its depth: a container may leave behind
 * directories nested thousands deep, or thousands beside each other. The tree belongs to a container that is dead. */
long remove_tree(const char *path)
{
    long fd = sys(__NR_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0), depth = 0;
    if (fd < 0) return fd == -ENOENT ? 0 : fd;
    LARGE static char buffer[4096] __attribute__((aligned(8)));
    LARGE static u64 resume[RESUMED]; /* of each level above: where the directory stands that was gone down into */
    u64 from = 0;
    for (;;) {
        int left = 0, down = 0;
        sys(__NR_lseek, fd, from, 0);
        for (long n; (n = sys(__NR_getdents64, fd, buffer, sizeof buffer)) > 0 && !down;)
            for (struct entry *e = (void *)buffer; (char *)e < buffer + n; from = e->offset, e = (void *)((char *)e + e->size)) {
                if (dots(e->name)) continue;
                if (sys(__NR_unlinkat, fd, e->name, 0) == 0) continue;
                if (sys(__NR_unlinkat, fd, e->name, AT_REMOVEDIR) == 0) continue;
                long child = openat_(fd, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
                if (child == -EACCES && sys(__NR_fchmodat, fd, e->name, 0700) == 0)
                    child = openat_(fd, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
                if (child < 0) {
                    left = 1;
                    continue;
                }
                sys(__NR_fchmod, child, 0700);
                close_(fd);
                if (depth < RESUMED) resume[depth] = from;
                fd = child;
                depth++;
                down = 1;
                from = 0;
                break;
            }
        if (down) continue;
        if (left || !depth) break;
        long up = openat_(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
        close_(fd);
        if (up < 0) return up;
        fd = up;
        depth--;
        from = depth < RESUMED ? resume[depth] : 0;
    }
    close_(fd);
    return sys(__NR_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

static long copy_data(long from, long to)
{
    LARGE static char buffer[65536];
    for (long n;;) {
        if ((n = sys(__NR_read, from, buffer, sizeof buffer)) <= 0) return n;
        if ((n = write_all(to, buffer, (word)n)) < 0) return n;
    }
}

/* Copy what is at `from` into the empty directory `to`: what tmpcopyup means. Regular files, directories and links; other
 * kinds, and what lies on another file system, are left out. */
long copy_tree(long from, long to, int depth)
{
    LARGE static char link[PATH_SIZE];
    char buffer[2048] __attribute__((aligned(8)));
    if (depth > 64) return -ELOOP;
    for (long n; (n = sys(__NR_getdents64, from, buffer, sizeof buffer)) != 0;) {
        if (n < 0) return n;
        for (struct entry *e = (void *)buffer; (char *)e < buffer + n; e = (void *)((char *)e + e->size)) {
            struct statx st;
            long r, a = -1, b = -1;
            if (dots(e->name)) continue;
            if ((r = sys(__NR_statx, from, e->name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st)) < 0) return r;
            switch (st.stx_mode & S_IFMT) {
            case S_IFDIR:
                if ((r = sys(__NR_mkdirat, to, e->name, 0700)) < 0) return r;
                a = openat_(from, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
                b = openat_(to, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
                r = a < 0 ? a : b < 0 ? b : copy_tree(a, b, depth + 1);
                break;
            case S_IFREG:
                a = openat_(from, e->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
                b = openat_(to, e->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
                r = a < 0 ? a : b < 0 ? b : copy_data(a, b);
                break;
            case S_IFLNK:
                if ((r = sys(__NR_readlinkat, from, e->name, link, PATH_SIZE - 1)) < 0) return r;
                link[r] = 0;
                if ((r = sys(__NR_symlinkat, link, to, e->name)) < 0) return r;
                sys(__NR_fchownat, to, e->name, st.stx_uid, st.stx_gid, AT_SYMLINK_NOFOLLOW);
                continue;
            default: continue;
            }
            if (r == 0) r = sys(__NR_fchown, b, st.stx_uid, st.stx_gid);
            if (r == 0) r = sys(__NR_fchmod, b, st.stx_mode & 07777);
            close_(a);
            close_(b);
            if (r < 0) {
                explain(e->name);
                return r;
            }
        }
    }
    return 0;
}
