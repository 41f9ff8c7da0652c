/* Directories, files, links and nodes below a descriptor, and files on the host by path. */
#include "executor.h"

long owned(long dir, const char *path, i64 uid, i64 gid)
{
    return uid < 0 && gid < 0 ? 0 : sys(__NR_fchownat, dir, path, uid, gid, AT_SYMLINK_NOFOLLOW);
}

long op_socket_pair(struct op *op)
{
    i32 pair[2];
    i64 first = num(op), second = num(op);
    long r = sys(__NR_socketpair, 1 /* AF_UNIX */, 1 /* SOCK_STREAM */ | SOCK_CLOEXEC_, 0, pair);
    if (r == 0) r = assign(first, pair[0]);
    return r == 0 ? assign(second, pair[1]) : r;
}

/* A socket that waits for others: by a path, which is for this user alone, or by a name that the kernel chooses and nobody
 * outside of the network namespace sees, with its first connection (unix(7), "Autobind feature"). */
long op_listen(struct op *op)
{
    struct {
        u16 family;
        char path[108];
    } name = {1, {0}};
    word size;
    const char *path = str(op, &size);
    i64 type = num(op), target = num(op), connected = num(op);
    i32 length_ = 2;
    long fd = sys(__NR_socket, 1, type | SOCK_CLOEXEC_, 0), r = fd, other;
    if (r >= 0 && size) { /* by its directory: a name has room for 108 bytes, a path may have more */
        LARGE static char directory[PATH_SIZE];
        struct text place = {name.path, 0, sizeof name.path, 0};
        word at = size;
        while (at && path[at] != '/') at--;
        if (size >= PATH_SIZE) return -ENAMETOOLONG;
        memcpy(directory, path, at);
        directory[at] = 0;
        other = openat_(AT_FDCWD, directory, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
        puts_(&place, "/proc/self/fd/");
        putn(&place, other);
        puts_(&place, path + at);
        length_ = (i32)(2 + place.used + 1);
        r = other < 0 ? other : place.full ? -ENAMETOOLONG : sys(__NR_bind, fd, &name, length_);
        close_(other);
        if (r >= 0) r = sys(__NR_chmod, path, 0600);
    } else if (r >= 0)
        r = sys(__NR_bind, fd, &name, length_);
    if (r >= 0) r = sys(__NR_listen, fd, 16);
    if (r >= 0) r = assign(target, fd);
    if (r < 0 || connected < 0) return r;
    length_ = sizeof name;
    r = sys(__NR_getsockname, fd, &name, &length_);
    other = r < 0 ? r : sys(__NR_socket, 1, type | SOCK_CLOEXEC_, 0);
    if (other >= 0 && (r = sys(__NR_connect, other, &name, length_)) < 0) other = r;
    return assign(connected, other);
}

/* An interface whose packets a program reads and writes (tuntap.rst); it belongs to the network namespace of whoever opens it. */
long op_tap(struct op *op)
{
    struct {
        char name[16];
        i16 flags;
        char rest[22];
    } request = {{0}, 2 | 0x1000 | 0x4000 /* IFF_TAP | IFF_NO_PI | IFF_VNET_HDR */, {0}};
    word size;
    const char *name = str(op, &size);
    i64 target = num(op);
    if (size >= sizeof request.name) return -ENAMETOOLONG;
    memcpy(request.name, name, size);
    long fd = openat_(AT_FDCWD, "/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK, 0), r;
    if (fd < 0) {
        explain("/dev/net/tun");
        return fd;
    }
    r = sys(__NR_ioctl, fd, 0x400454ca /* TUNSETIFF */, &request);
    return r < 0 ? close_(fd), r : assign(target, fd);
}

/* A machine's memory, as a file that no name leads to (memfd_create(2)): empty, or with what another machine's had. Only what is
 * written there is copied, and takes room. */
long op_memory(struct op *op)
{
    i64 size = num(op), target = num(op);
    long source = slot(op);
    long fd = sys(__NR_memfd_create, "machine", 1 /* MFD_CLOEXEC */), r = fd;
    if (r >= 0) r = sys(__NR_ftruncate, fd, size);
    for (i64 at = 0; source >= 0 && r >= 0;) {
        i64 begin = sys(__NR_lseek, source, at, 3 /* SEEK_DATA */), end;
        if (begin < 0) { /* there is no more */
            r = begin == -ENXIO ? 0 : begin;
            break;
        }
        end = sys(__NR_lseek, source, begin, 4 /* SEEK_HOLE */);
        if (end < begin || end > size) r = -EINVAL;
        if (r >= 0) r = sys(__NR_lseek, fd, begin, 0);
        if (r >= 0) r = sys(__NR_lseek, source, begin, 0);
        for (at = begin; r >= 0 && at < end; at += r) {
            r = sys(__NR_sendfile, fd, source, 0, end - at);
            if (r == 0) r = -EIO;
        }
    }
    if (r < 0) {
        close_(fd);
        return r;
    }
    return assign(target, fd);
}

long op_make_directory(struct op *op)
{
    long dir = slot(op);
    const char *path = str(op, 0);
    i64 mode = num(op), uid = num(op), gid = num(op);
    long r = sys(__NR_mkdirat, dir, path, mode); /* the executor's umask is 0 */
    return r < 0 ? r : owned(dir, path, uid, gid);
}

long op_make_symlink(struct op *op)
{
    long dir = slot(op);
    const char *target = str(op, 0), *path = str(op, 0);
    i64 uid = num(op), gid = num(op);
    long r = sys(__NR_symlinkat, target, dir, path);
    if (r == -EEXIST) return 0;
    return r < 0 ? r : owned(dir, path, uid, gid);
}

long op_make_file(struct op *op)
{
    word size;
    long dir = slot(op), fd, r;
    const char *path = str(op, 0), *data = str(op, &size);
    i64 mode = num(op);
    fd = openat_(dir, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return fd;
    r = write_all(fd, data, size);
    if (r == 0) r = sys(__NR_fchmod, fd, mode);
    close_(fd);
    return r;
}

long op_make_node(struct op *op)
{
    long dir = slot(op), r;
    const char *path = str(op, 0);
    i64 mode = num(op), device = num(op), uid = num(op), gid = num(op), parents = num(op);
    if (parents) {
        LARGE static char parent[PATH_SIZE];
        word n = length(path);
        if (n >= PATH_SIZE) return -ENAMETOOLONG;
        memcpy(parent, path, n + 1);
        while (n && parent[n] != '/') n--;
        parent[n] = 0;
        long fd = n ? make_path(dir, parent, 0, 0) : in_root(dir, ".", 0, 0);
        if (fd < 0) return fd;
        const char *name = path + n + (path[n] == '/');
        struct statx st;
        r = sys(__NR_mknodat, fd, name, mode, device);
        if (r == -EEXIST && sys(__NR_statx, fd, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) == 0) {
            u64 there = (u64)(st.stx_rdev_minor & 0xff) | (u64)(st.stx_rdev_major & 0xfff) << 8 | (u64)(st.stx_rdev_minor & ~0xffU) << 12;
            if ((st.stx_mode & S_IFMT) == (mode & S_IFMT) && there == (u64)device) {
                close_(fd);
                return 0;
            }
            explain("another file is there");
        }
        if (r == 0) r = owned(fd, path + n + (path[n] == '/'), uid, gid);
        close_(fd);
        return r;
    }
    r = sys(__NR_mknodat, dir, path, mode, device);
    return r < 0 ? r : owned(dir, path, uid, gid);
}

long op_set_xattr(struct op *op)
{
    word size;
    long dir = slot(op), fd, r;
    const char *path = str(op, 0), *name = str(op, 0), *value = str(op, &size);
    fd = openat_(dir, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0);
    if (fd < 0) return fd;
    r = sys(__NR_fsetxattr, fd, name, value, size, 0);
    close_(fd);
    return r;
}

long op_open_at(struct op *op)
{
    long dir = slot(op);
    const char *path = str(op, 0);
    i64 flags = num(op), resolve = num(op), target = num(op);
    return assign(target, open_in(dir, path, (u64)flags, (u64)resolve));
}

long op_open(struct op *op)
{
    const char *path = str(op, 0);
    i64 flags = num(op), target = num(op);
    return assign(target, openat_(AT_FDCWD, path, flags | O_CLOEXEC, 0600));
}

long op_write_at(struct op *op)
{
    word size;
    long dir = slot(op), fd, r;
    const char *path = str(op, 0), *data = str(op, &size);
    if (!*path) { /* the file itself is open */
        r = sys(__NR_write, dir, data, size);
        return r < 0 ? r : 0;
    }
    fd = open_in(dir, path, O_WRONLY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    if (fd < 0) return fd;
    r = sys(__NR_write, fd, data, size);
    close_(fd);
    return r < 0 ? r : 0;
}
