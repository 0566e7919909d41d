# SPDX-License-Identifier: MIT
include(GNUInstallDirs)
if(TARGET virnucpro)
  install(TARGETS virnucpro RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(TARGETS virnucpro_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/virnucpro DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY models/ DESTINATION ${CMAKE_INSTALL_DATADIR}/virnucpro/models FILES_MATCHING
  PATTERN "virnucpro-*.safetensors" PATTERN "README.md")
