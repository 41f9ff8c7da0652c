/* Mounts by descriptor: open_tree(2), fsopen(2), fsmount(2), mount_setattr(2), move_mount(2). */
#include "executor.h"

/* A file system context keeps the kernel's own words about what was wrong (fsopen(2)). */
static void context_log(long context)
{
    char line[256];
    for (long n; !talk.detail.used && (n = sys(__NR_read, context, line, sizeof line - 1)) > 0;) {
        line[n] = 0;
        if (line[n - 1] == '\n') line[n - 1] = 0;
        if (n > 2 && line[0] == 'e' && line[1] == ' ') puts_(&talk.detail, line + 2);
    }
}

static long create(long context) { return sys(__NR_fsconfig, context, FSCONFIG_CMD_CREATE, 0, 0, 0); }

/* overlayfs keeps the ids of who creates it, and asks with them for every access. An fsuid other than root's goes without
 * CAP_DAC_OVERRIDE and its kin, and comes back with them (capabilities(7), "Effect of user ID changes"). */
static long create_as(long context, i64 id)
{
    LARGE static u32 groups[65536];
    long count = sys(__NR_getgroups, 65536, groups), open = sys(__NR_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0), r;
    if (count > 0 && sys(__NR_setgroups, 0, 0) < 0) count = 0; /* denied in this user namespace: they are its user's own */
    u32 gid = (u32)sys(__NR_setfsgid, id), uid = (u32)sys(__NR_setfsuid, id);
    if (sys(__NR_setfsuid, -1L) == id && sys(__NR_setfsgid, -1L) == id) r = create(context);
    else r = -EPERM; /* not an id of this user namespace: there is no stranger to be */
    sys(__NR_setfsuid, uid);
    sys(__NR_setfsgid, gid);
    if (count > 0) sys(__NR_setgroups, count, groups);
    if (open == 1) sys(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); /* as before: without privileges its owner opens its namespaces */
    return r;
}

enum { OPTION_FLAG = 0, OPTION_STRING = 1, OPTION_FD = 2, OPTION_FD_PATHS = 3 };

long op_make_filesystem(struct op *op)
{
    const char *type = str(op, 0);
    i64 attributes = num(op), target = num(op), stranger = num(op), count = num(op);
    long context = sys(__NR_fsopen, type, FSOPEN_CLOEXEC), r = 0;
    if (context < 0) return context;
    for (; r == 0 && count-- > 0;) {
        i64 kind = num(op);
        const char *key = str(op, 0);
        TEXT(path, 4000);
        if (kind == OPTION_FLAG) r = sys(__NR_fsconfig, context, FSCONFIG_SET_FLAG, key, 0, 0);
        else if (kind == OPTION_STRING) r = sys(__NR_fsconfig, context, FSCONFIG_SET_STRING, key, str(op, 0), 0);
        else if (kind == OPTION_FD) r = sys(__NR_fsconfig, context, FSCONFIG_SET_FD, key, 0, slot(op));
        else {
            for (i64 paths = num(op), i = 0; i < paths; i++) {
                puts_(&path, i ? ":/proc/self/fd/" : "/proc/self/fd/");
                putn(&path, slot(op));
            }
            r = path.full ? -E2BIG : sys(__NR_fsconfig, context, FSCONFIG_SET_STRING, key, path_, 0);
        }
        if (r < 0 && !talk.detail.used) {
            context_log(context);
            if (!talk.detail.used) {
                puts_(&talk.detail, "option ");
                puts_(&talk.detail, key);
            }
        }
    }
    if (r == 0) r = stranger < 0 ? create(context) : create_as(context, stranger);
    if (r == 0) r = assign(target, sys(__NR_fsmount, context, FSMOUNT_CLOEXEC, attributes));
    if (r < 0) context_log(context);
    close_(context);
    return r;
}

enum { TREE_RECURSIVE = 1, TREE_NO_FOLLOW = 2 };

/* A detached copy of a mount, with its attributes set before anyone can see it. */
long op_open_tree(struct op *op)
{
    const char *path = str(op, 0);
    i64 flags = num(op), set = num(op), clear = num(op), propagation = num(op), userns = num(op), target = num(op);
    i64 base = num(op), only_recursive = num(op);
    long from = base < 0 ? AT_FDCWD : slot_at(base);
    struct mount_attr attr = {.attr_set = (u64)set, .attr_clr = (u64)clear}, apart = {.propagation = (u64)propagation};
    word how = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (flags & TREE_RECURSIVE ? AT_RECURSIVE_ : 0) |
               (flags & TREE_NO_FOLLOW ? AT_SYMLINK_NOFOLLOW : 0);
    long fd, r = 0;
    if (base >= 0 && !*path)
        fd = sys(__NR_open_tree, from, "", how | AT_EMPTY_PATH_);
    else if (base >= 0) { /* a path that a container controls: resolve it first, clone what was found */
        long found = in_root(from, path, 0, 0);
        if (found < 0) return found;
        fd = sys(__NR_open_tree, found, "", how | AT_EMPTY_PATH_);
        close_(found);
    } else
        fd = sys(__NR_open_tree, AT_FDCWD, path, how);
    if (fd < 0) return fd;
    if (userns >= 0) {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = (u64)slot_at(userns);
    }
    /* A clone is a peer of the host's mount: what is mounted below it would appear on the host. */
    if (propagation)
        r = sys(__NR_mount_setattr, fd, "", AT_EMPTY_PATH_ | (flags & TREE_RECURSIVE ? AT_RECURSIVE_ : 0), &apart, sizeof apart);
    if (r == 0 && (attr.attr_set || attr.attr_clr))
        r = sys(__NR_mount_setattr, fd, "", AT_EMPTY_PATH_ | (only_recursive ? AT_RECURSIVE_ : 0), &attr, sizeof attr);
    if (r < 0) {
        if (userns >= 0) explain("the idmapped mount was refused");
        close_(fd);
        return r;
    }
    return assign(target, fd);
}

enum { ATTACH_EXISTING = 0, ATTACH_MAKE_DIRECTORY = 1, ATTACH_MAKE_FILE = 2, ATTACH_LIKE_SOURCE = 3 };

static long attach(long fd, long target)
{
    return sys(__NR_move_mount, fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* Attach a detached mount on a path below a directory's descriptor, made if it is missing. */
long op_attach(struct op *op)
{
    long fd = slot(op), root = slot(op), target, r;
    const char *path = str(op, 0);
    i64 make = num(op), resolve = num(op);
    struct statx st;
    if (make == ATTACH_LIKE_SOURCE) {
        if ((r = sys(__NR_statx, fd, "", AT_EMPTY_PATH_, STATX_TYPE, &st)) < 0) return r;
        make = (st.stx_mode & S_IFMT) == S_IFDIR ? ATTACH_MAKE_DIRECTORY : ATTACH_MAKE_FILE;
    }
    target = make == ATTACH_EXISTING ? in_root(root, path, 0, (u64)resolve)
                                     : make_path(root, path, make == ATTACH_MAKE_FILE, (u64)resolve);
    if (target < 0) {
        if (target == -ELOOP) explain("a symbolic link stands where only a directory may");
        return target;
    }
    r = attach(fd, target);
    if (r == -EINVAL && sys(__NR_statx, target, "", AT_EMPTY_PATH_, STATX_TYPE, &st) == 0) {
        struct statx source;
        if (sys(__NR_statx, fd, "", AT_EMPTY_PATH_, STATX_TYPE, &source) == 0 &&
            ((st.stx_mode & S_IFMT) == S_IFDIR) != ((source.stx_mode & S_IFMT) == S_IFDIR)) {
            explain("one is a directory and the other is not");
            r = -ENOTDIR;
        }
    }
    close_(target);
    return r;
}

long op_set_attributes(struct op *op)
{
    long root = slot(op);
    const char *path = str(op, 0);
    struct mount_attr attr = {.attr_set = (u64)num(op), .attr_clr = (u64)num(op), .propagation = (u64)num(op)};
    i64 recursive = num(op);
    long fd = in_root(root, path, 0, 0), r;
    if (fd < 0) return fd;
    r = sys(__NR_mount_setattr, fd, "", AT_EMPTY_PATH_ | (recursive ? AT_RECURSIVE_ : 0), &attr, sizeof attr);
    close_(fd);
    return r;
}

/* Cover a path: a directory with an empty read-only one, anything else with /dev/null, both by descriptors that were
 * checked on the host (a /dev/null looked up in the container is the container's to choose: CVE-2025-31133). */
long op_mask(struct op *op)
{
    long root = slot(op), empty = slot(op), null = slot(op), fd, cover, r;
    const char *path = str(op, 0);
    i64 resolve = num(op);
    struct statx st;
    fd = in_root(root, path, 0, (u64)resolve);
    if (fd == -ENOENT || fd == -ENOTDIR) return 0; /* nothing there to be hidden */
    if (fd < 0) return fd;
    if ((r = sys(__NR_statx, fd, "", AT_EMPTY_PATH_, STATX_TYPE, &st)) < 0) {
        close_(fd);
        return r;
    }
    cover = sys(__NR_open_tree, (st.stx_mode & S_IFMT) == S_IFDIR ? empty : null, "",
                AT_EMPTY_PATH_ | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    r = cover < 0 ? cover : attach(cover, fd);
    close_(cover);
    close_(fd);
    return r;
}

long op_read_only(struct op *op)
{
    long root = slot(op), fd, tree, r;
    const char *path = str(op, 0);
    i64 resolve = num(op);
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    fd = in_root(root, path, 0, (u64)resolve);
    if (fd == -ENOENT || fd == -ENOTDIR) return 0;
    if (fd < 0) return fd;
    tree = sys(__NR_open_tree, fd, "", AT_EMPTY_PATH_ | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE_);
    r = tree < 0 ? tree : sys(__NR_mount_setattr, tree, "", AT_EMPTY_PATH_ | AT_RECURSIVE_, &attr, sizeof attr);
    if (r >= 0) r = attach(tree, fd);
    close_(tree);
    close_(fd);
    return r;
}

long op_copy_up(struct op *op)
{
    long root = slot(op), to = slot(op), from, into, r;
    from = open_in(root, str(op, 0), O_RDONLY | O_DIRECTORY, IN_ROOT);
    if (from == -ENOENT) return 0;
    if (from < 0) return from;
    into = openat_(to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    r = into < 0 ? into : copy_tree(from, into, 0);
    close_(from);
    close_(into);
    return r;
}

/* pivot_root(".", ".") stacks the old root on the new one, and "." then names the topmost mount there. What the plan had
 * attached on the old root's own "/" lies on top of it and is detached first: one umount too few would leave the host's
 * whole tree one ".." away, so what is left is checked. */
long op_pivot(struct op *op)
{
    long root = slot(op), r;
    i64 stacked = num(op);
    struct statx new_root, top;
    if ((r = sys(__NR_statx, root, "", AT_EMPTY_PATH_, STATX_MNT_ID_, &new_root)) < 0) return r;
    if ((r = sys(__NR_fchdir, root)) < 0) return r;
    if ((r = sys(__NR_pivot_root, ".", ".")) < 0) return r;
    for (; stacked >= 0; stacked--)
        if ((r = sys(__NR_umount2, ".", MNT_DETACH_)) < 0) return r;
    if ((r = sys(__NR_chdir, "/")) < 0) return r;
    /* ".." from the root crosses whatever is still mounted on it */
    if ((r = sys(__NR_statx, AT_FDCWD, "..", 0, STATX_MNT_ID_, &top)) < 0) return r;
    if (top.stx_mnt_id != new_root.stx_mnt_id) {
        explain("something of the host is still mounted over the new root");
        return -EBUSY;
    }
    return 0;
}

/* For an initial ramdisk, whose root pivot_root(2) refuses to exchange: the root is only covered. */
long op_change_root(struct op *op)
{
    long r = sys(__NR_fchdir, slot(op));
    if (r == 0) r = sys(__NR_chroot, ".");
    return r == 0 ? sys(__NR_chdir, "/") : r;
}

long op_propagation(struct op *op) { return sys(__NR_mount, 0, "/", 0, num(op), 0); }
