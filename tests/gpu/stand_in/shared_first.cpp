unsigned char stand_in_shared_first;
