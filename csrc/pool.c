/* A pool of threads that sleep when there is nothing to do.
 *
 * One call at a time owns the pool. It publishes a job, works on it itself, and every worker that wakes in time joins.
 * Each begins with a part of the tiles that is its own, the same at every call: what a layer wrote, or will write over
 * at the next call, is then still in that core's cache. Whoever has done with its part takes what is left of others',
 * so a worker that is late or off its CPU holds nobody up. A second caller (another Python thread, or a tile that calls
 * back) finds the pool owned and does its work alone. Idle workers spin for as long as their last job took, 20 to 200
 * microseconds: long enough to catch its next phase or the next layer of a network, where to be woken costs a virtual
 * machine some 30 microseconds. Then they sleep: an OpenMP that spins on costs 100 times the work itself on a busy
 * machine. After fork the child starts with an empty pool.
 *
 * In a process whose other work is done by such an OpenMP, PyTorch's, its threads still spin on our workers' cores when
 * a convolution begins. There the calls run on those threads: fc_use_team. */
#define _POSIX_C_SOURCE 200809L /* signal masks and pthread_atfork, whatever -std says */

#include "fastconv.h"
#include "fpmode.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { MAX_THREADS = 256, LINE = 64 };
enum { LEAST_SPIN = 20000, MOST_SPIN = 200000, PAUSES = 8 }; /* nanoseconds; pauses between looks at the clock */

typedef struct {
    void (*tile)(void *context, ptrdiff_t i, int worker);
    void *context;
    ptrdiff_t tiles;
    int keep_denormals;
    int threads;
} job;

/* The tiles of a thread that nobody has taken yet; on a cache line of its own. */
typedef struct {
    _Alignas(LINE) _Atomic ptrdiff_t next;
    ptrdiff_t end;
} part;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* guards everything below that is not atomic */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;    /* a job was published */
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;    /* the last worker left the job */
static job current;
static int workers; /* threads that exist */
static int asleep;  /* of them, those that wait for `wake` */
static atomic_flag owned = ATOMIC_FLAG_INIT;
static atomic_int active;         /* workers inside the current job; raised only under the mutex */
static atomic_uint published;     /* number of jobs so far */
static atomic_int open_job;       /* 1 while workers may join */
static part parts[MAX_THREADS];   /* of the current job */

static _Atomic(fc_team) team;     /* somebody else's threads, or NULL */
static _Atomic(fc_member) member; /* and which of them the caller is */

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb"); /* about as long as an x86 pause, where `yield` is a no-op */
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The time at which to stop spinning after work that began at `start`. */
static int64_t spin_end(int64_t start) {
    const int64_t now = nanoseconds(), took = now - start;
    return now + (took < LEAST_SPIN ? LEAST_SPIN : took > MOST_SPIN ? MOST_SPIN : took);
}

static void deal_tiles(const job *j) {
    for (int i = 0; i < j->threads; i++) {
        atomic_store_explicit(&parts[i].next, j->tiles * i / j->threads, memory_order_relaxed);
        parts[i].end = j->tiles * (i + 1) / j->threads;
    }
}

static void take_tiles(const job *j, int worker) {
    const fc_fpmode before = fc_fpmode_enter(j->keep_denormals);
    for (int i = 0; i < j->threads; i++) {
        part *from = &parts[(worker + i) % j->threads];
        for (;;) {
            const ptrdiff_t tile = atomic_fetch_add_explicit(&from->next, 1, memory_order_relaxed);
            if (tile >= from->end)
                break;
            j->tile(j->context, tile, worker);
        }
    }
    fc_fpmode_leave(before);
}

static void *worker_main(void *number_of_mine) {
    const int number = (int)(intptr_t)number_of_mine;
    unsigned seen = 0;
    int64_t end = 0;
    for (;;) {
        for (unsigned i = 1; atomic_load_explicit(&published, memory_order_relaxed) == seen; i++) {
            pause_cpu();
            if (i % PAUSES == 0 && nanoseconds() > end)
                break;
        }
        pthread_mutex_lock(&mutex);
        while (atomic_load(&published) == seen) {
            asleep++;
            pthread_cond_wait(&wake, &mutex);
            asleep--;
        }
        seen = atomic_load(&published);
        const int join = atomic_load(&open_job) && number < current.threads;
        const job mine = current;
        if (join)
            atomic_fetch_add(&active, 1);
        pthread_mutex_unlock(&mutex);
        if (!join)
            continue;
        const int64_t start = nanoseconds();
        take_tiles(&mine, number);
        if (atomic_fetch_sub(&active, 1) == 1) {
            pthread_mutex_lock(&mutex); /* so that the owner is either not yet waiting or already woken by this */
            pthread_cond_signal(&idle);
            pthread_mutex_unlock(&mutex);
        }
        end = spin_end(start);
    }
    return NULL;
}

/* What each thread of a team does. There may be fewer than were asked for, or, of nested teams, one. */
static void team_member(void *data) {
    const job *mine = data;
    const int number = atomic_load(&member)();
    if (number < mine->threads)
        take_tiles(mine, number);
}

static void before_fork(void) { pthread_mutex_lock(&mutex); }

static void after_fork_parent(void) { pthread_mutex_unlock(&mutex); }

static void after_fork_child(void) { /* only the thread that forked is here */
    pthread_mutex_init(&mutex, NULL);
    pthread_cond_init(&wake, NULL);
    pthread_cond_init(&idle, NULL);
    workers = asleep = 0;
    atomic_store(&team, NULL); /* its threads are not here either */
    atomic_store(&active, 0);
    atomic_store(&published, 0);
    atomic_store(&open_job, 0);
    atomic_flag_clear(&owned);
}


static void start(void) { pthread_atfork(before_fork, after_fork_parent, after_fork_child); }

void fc_use_team(fc_team other, fc_member number) {
    pthread_once(&once, start);
    atomic_store(&member, number);
    atomic_store(&team, other);
}

/* Under the mutex. Signals are blocked in the workers: they belong to the program's own threads. Where the system gives
 * no more threads, those that exist do the work. */
static void grow(int count) {
    if (workers >= count)
        return;
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (workers < count && !pthread_create(&thread, &attributes, worker_main, (void *)(intptr_t)(workers + 1)))
        workers++;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void alone(const job *j) {
    const fc_fpmode before = fc_fpmode_enter(j->keep_denormals);
    for (ptrdiff_t i = 0; i < j->tiles; i++)
        j->tile(j->context, i, 0);
    fc_fpmode_leave(before);
}

void fc_parallel(int threads, ptrdiff_t tiles, int keep_denormals,
                 void (*tile)(void *context, ptrdiff_t i, int worker), void *context) {
    const ptrdiff_t least = threads < tiles ? threads : tiles, most = least < MAX_THREADS ? least : MAX_THREADS;
    const job mine = {tile, context, tiles, keep_denormals, (int)most};
    if (mine.threads < 2) {
        alone(&mine);
        return;
    }
    pthread_once(&once, start);
    if (atomic_flag_test_and_set(&owned)) {
        alone(&mine);
        return;
    }
    const fc_team others = atomic_load(&team);
    if (others) {
        deal_tiles(&mine);
        others(team_member, (void *)&mine, (unsigned)mine.threads, 0);
        atomic_flag_clear(&owned);
        return;
    }
    pthread_mutex_lock(&mutex);
    grow(mine.threads - 1);
    current = mine;
    deal_tiles(&mine);
    atomic_store(&open_job, 1);
    atomic_fetch_add(&published, 1);
    if (asleep)
        pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&mutex);

    const int64_t start_of_mine = nanoseconds();
    take_tiles(&mine, 0);

    pthread_mutex_lock(&mutex);
    atomic_store(&open_job, 0);
    pthread_mutex_unlock(&mutex);
    const int64_t end = spin_end(start_of_mine);
    for (unsigned i = 1; atomic_load(&active) && (i % PAUSES || nanoseconds() < end); i++)
        pause_cpu();
    if (atomic_load(&active)) {
        pthread_mutex_lock(&mutex);
        while (atomic_load(&active))
            pthread_cond_wait(&idle, &mutex);
        pthread_mutex_unlock(&mutex);
    }
    atomic_flag_clear(&owned);
}
