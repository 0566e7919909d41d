# SPDX-License-Identifier: MIT
# The trainer's inner loops are compiled once an instruction set; train.c chooses at run time. They
# may contract a*b+c: there every set rounds once, so AVX2 and AVX-512 give the same bits.
set(train_isas generic)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64|AMD64")
  list(APPEND train_isas avx2 avx512)
endif()
set(train_flags_generic "")
set(train_flags_avx2 -mavx2 -mfma)
set(train_flags_avx512 -mavx512f -mavx512dq -mavx2 -mfma -mprefer-vector-width=512)
foreach(isa IN LISTS train_isas)
  add_library(room_train_${isa} OBJECT ${PROJECT_SOURCE_DIR}/src/model/kernels/train_kernels.c)
  target_link_libraries(room_train_${isa} PRIVATE vnp_flags vnp_deps)
  target_compile_definitions(room_train_${isa} PRIVATE VNP_TRAIN_ISA=${isa})
  target_compile_options(room_train_${isa} PRIVATE ${train_flags_${isa}} -O3 -Wno-psabi)
  list(APPEND VNP_OBJECTS $<TARGET_OBJECTS:room_train_${isa}>)
endforeach()
# A file's own options come last: the room's -ffp-contract=off stands before them.
set_source_files_properties(${PROJECT_SOURCE_DIR}/src/model/kernels/train_kernels.c PROPERTIES COMPILE_OPTIONS
  -ffp-contract=fast)
