# SPDX-License-Identifier: MIT
include(CheckCCompilerFlag)
set(VNP_WARNINGS)
foreach(flag -Wall -Wextra -Wshadow -Wcast-qual -Wcast-align=strict -Wstrict-prototypes
        -Wmissing-prototypes -Wundef -Wvla -Wformat=2 -Wwrite-strings -Wswitch-enum -Wpointer-arith)
  string(MAKE_C_IDENTIFIER "HAVE${flag}" var)
  check_c_compiler_flag(${flag} ${var})
  if(${var})
    list(APPEND VNP_WARNINGS ${flag})
  endif()
endforeach()
option(VNP_WERROR "warnings are errors" ON)
if(VNP_WERROR)
  list(APPEND VNP_WARNINGS -Werror)
endif()
# One rounding everywhere: no contraction but where a kernel writes fma itself.
list(APPEND VNP_WARNINGS -ffp-contract=off)
