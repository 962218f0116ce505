/* The table of limits of one ISA, by name: isas.def turned into one array, as in dispatch.c. */
#include "machine_limits.h"

#include "fastconv.h"

#include <string.h>

#define FC_ISA(name, test) extern const fc_limits fc_kernels_##name##_limits;
#include "isas.def"
#undef FC_ISA

#define FC_ISA(name, test) &fc_kernels_##name##_limits,
static const fc_limits *const tables[] = {
#include "isas.def"
};
#undef FC_ISA

const fc_limits *fc_find_limits(const char *isa) {
    for (int i = 0; i < fc_isa_count(); i++)
        if (!strcmp(isa, fc_isa_name(i)))
            return fc_isa_usable(i) ? tables[i] : NULL;
    return NULL;
}
