/* Which kernel tables this build holds, and which of them this CPU can run: isas.def turned into one array. */
#include "fastconv.h"

#include <string.h>

typedef struct {
    const char *name;
    const fc_kernels *kernels;
    int (*usable)(void);
} isa_row;

#define FC_ISA(name, test) extern const fc_kernels fc_kernels_##name;
#include "isas.def"
#undef FC_ISA

#define FC_ISA(name, test) static int usable_##name(void) { return (test) != 0; }
#include "isas.def"
#undef FC_ISA

#define FC_ISA(name, test) {#name, &fc_kernels_##name, usable_##name},
static const isa_row rows[] = {
#include "isas.def"
};
#undef FC_ISA

int fc_isa_count(void) { return (int)(sizeof rows / sizeof rows[0]); }

const char *fc_isa_name(int row) { return rows[row].name; }

int fc_isa_usable(int row) { return rows[row].usable(); }

const fc_kernels *fc_find(const char *isa) {
    for (int i = 0; i < fc_isa_count(); i++)
        if ((!isa || !strcmp(isa, rows[i].name)) && rows[i].usable())
            return rows[i].kernels;
    return NULL;
}
