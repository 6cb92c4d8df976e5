"""What is done with data sets outside of training: conversion and inspection."""
