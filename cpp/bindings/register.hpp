#pragma once

#include <pybind11/pybind11.h>

namespace l2m::bindings {

// One function per file of this folder.
void register_class_index(pybind11::module_& m);
void register_class_loss(pybind11::module_& m);
void register_cross_entropy(pybind11::module_& m);
void register_fields(pybind11::module_& m);
void register_loader(pybind11::module_& m);
void register_policies(pybind11::module_& m);

}  // namespace l2m::bindings
