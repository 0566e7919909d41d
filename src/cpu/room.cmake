# SPDX-License-Identifier: MIT
# Kernels are compiled once an instruction set; dispatch (cpu_dispatch.c) chooses at run time.
file(GLOB cpu_kernel_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cpu/kernels/*.c)
set(cpu_isas generic)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64|AMD64")
  list(APPEND cpu_isas avx2 avx512 avx512bf16)
endif()
set(cpu_flags_generic "")
set(cpu_flags_avx2 -mavx2 -mfma -mf16c)
set(cpu_flags_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)
set(cpu_flags_avx512bf16 ${cpu_flags_avx512} -mavx512bf16)
foreach(isa IN LISTS cpu_isas)
  set(sources ${cpu_kernel_sources})
  if(isa STREQUAL avx512bf16) # differs from avx512 here alone
    set(sources ${PROJECT_SOURCE_DIR}/src/cpu/kernels/cpu_attention.c
                ${PROJECT_SOURCE_DIR}/src/cpu/kernels/cpu_epilogue.c)
  endif()
  add_library(room_cpu_${isa} OBJECT ${sources})
  target_link_libraries(room_cpu_${isa} PRIVATE vnp_flags vnp_deps)
  target_compile_definitions(room_cpu_${isa} PRIVATE VNP_CPU_ISA=${isa})
  target_compile_options(room_cpu_${isa} PRIVATE ${cpu_flags_${isa}} -O3)
  list(APPEND VNP_OBJECTS $<TARGET_OBJECTS:room_cpu_${isa}>)
endforeach()
