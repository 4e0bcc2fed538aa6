//! Layers that give objects more than a PUT and a GET: copies, large objects, links, versions, bulk work.
