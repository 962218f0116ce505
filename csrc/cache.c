/* How much a core's level-2 cache holds: what some kernels cut their blocks to. Asked of the system once. */
#define _DEFAULT_SOURCE /* sysconf's names of caches, whatever -std says */
#define _DARWIN_C_SOURCE

#include "fastconv.h"

#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/* Where the system does not say; and the range outside of which its answer is not believed: caches that cores share are
 * larger than what one core may count on. */
enum { FC_LEVEL2_DEFAULT = 512 << 10, FC_LEVEL2_LEAST = 128 << 10, FC_LEVEL2_MOST = 4 << 20 };

static long long asked(void) {
#if defined(__APPLE__)
    long long bytes = 0;
    size_t size = sizeof bytes;
    if (!sysctlbyname("hw.perflevel0.l2cachesize", &bytes, &size, NULL, 0))
        return bytes;
    size = sizeof bytes;
    return sysctlbyname("hw.l2cachesize", &bytes, &size, NULL, 0) ? 0 : bytes;
#else
    long long bytes = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    if (bytes <= 0) { /* ARM, or another C library than glibc */
        FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index2/size", "r");
        long kilobytes = 0;
        if (file) {
            if (fscanf(file, "%ldK", &kilobytes) == 1)
                bytes = (long long)kilobytes << 10;
            fclose(file);
        }
    }
    return bytes;
#endif
}

size_t fc_level2_bytes(void) {
    static _Atomic size_t known;
    size_t bytes = atomic_load_explicit(&known, memory_order_relaxed);
    if (!bytes) {
        const long long answer = asked();
        bytes = answer <= 0                 ? FC_LEVEL2_DEFAULT
                : answer < FC_LEVEL2_LEAST ? FC_LEVEL2_LEAST
                : answer > FC_LEVEL2_MOST  ? FC_LEVEL2_MOST
                                           : (size_t)answer;
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return bytes;
}
