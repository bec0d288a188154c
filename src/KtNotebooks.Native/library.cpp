#include "kt.h"
extern "C" int32_t kt_abi_version(void) { return 1; }
